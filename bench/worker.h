// What our workers of the comparisons share: a line of JSON comes in, {"stage": NAME}, that stage
// runs once, a line goes out, {"seconds", "cpu", "peak_mib"} and what the stage adds, or {"error"}.
// The first line is {"stages", "base_mib"}.
#pragma once

#include <sys/resource.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

namespace evariste {

/// Of all threads of this process.
inline double cpu_seconds() {
  rusage use{};
  getrusage(RUSAGE_SELF, &use);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(use.ru_utime) + seconds(use.ru_stime);
}

/// "VmRSS": memory now; "VmHWM": the most since the start.
inline double resident_mib(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(key)) return std::stod(line.substr(key.size() + 1)) / 1024;
  return 0;
}

/// A stage's answer is merged over what was measured of it.
using Stage = std::function<nlohmann::json()>;

inline void serve(const std::map<std::string, Stage>& stages) {
  using Json = nlohmann::json;
  Json names = Json::array();
  for (const auto& [name, run] : stages) names.push_back(name);
  std::cout << Json{{"stages", names}, {"base_mib", resident_mib("VmRSS")}}.dump() << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    Json answer;
    try {
      const auto& run = stages.at(Json::parse(line).at("stage").get<std::string>());
      const double cpu = cpu_seconds();
      const auto start = std::chrono::steady_clock::now();
      const auto added = run();
      const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
      answer = {{"seconds", wall.count()},
                {"cpu", cpu_seconds() - cpu},
                {"peak_mib", resident_mib("VmHWM")}};
      answer.update(added);
    } catch (const std::exception& error) {
      answer = {{"error", error.what()}};
    }
    std::cout << answer.dump() << std::endl;
  }
}

}  // namespace evariste
