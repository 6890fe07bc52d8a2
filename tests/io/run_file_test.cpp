#include "io/run_file.h"

#include <cmath>
#include <optional>

#include "core/error.h"
#include "core/sha256.h"
#include "io/atomic_file.h"
#include "tests/catch.h"
#include "tests/io/temporary_folder.h"

using namespace evariste;

namespace {

Provenance provenance(const std::string& command = "layerwise") {
  Provenance made;
  made.command = command;
  made.config = "lr = 0.1\n";
  made.start = "2025-01-31T12:00:00Z";
  return made;
}

struct Traces {
  RunFile::Dimension epoch, block;
  RunFile::Series loss, precision;
};

/// /trace over epoch and /blocks over (epoch, block), as in the contract.
Traces declare(RunFile& run) {
  const auto epoch = run.unlimited("blocks/epoch", "epoch");
  const auto block = run.labels("blocks/block", {"0.weight", "3.weight"});
  return {epoch, block, run.series("blocks/loss", {epoch}, "training loss", "nats"),
          run.series("blocks/precision", {epoch, block}, "prior precision")};
}

std::vector<double> numbers(const std::filesystem::path& path, std::string_view array) {
  return read_run(path).numbers(array);
}

}  // namespace

TEST_CASE("a run file gives back what was appended", "[io][run]") {
  const TemporaryFolder folder;
  const auto path = folder / "run.h5";
  RunFile run(path, provenance());
  const auto traces = declare(run);
  run.append(traces.epoch, 0, {{traces.loss, {1.5}}, {traces.precision, {1, 2}}});
  run.append(traces.epoch, 1, {{traces.precision, {3, 4}}});  // no loss: NaN
  const auto row = run.labels("table/row", {"layer 1", "layer 2"});
  run.array("table/text", {row}, std::vector<std::string>{"é, 0.5", ""}, "the printed table");
  run.array("table/seeds", {row}, std::vector<int64_t>{3, 4});
  run.array("table/total", {}, std::vector<double>{0.25});
  run.finish({{"test/accuracy", 0.98}, {"test/count", 10000}});

  CHECK(folder.file_count() == 1);
  const auto record = read_run(path);
  CHECK(record.numbers("blocks/epoch") == std::vector<double>{0, 1});
  CHECK(record.numbers("blocks/precision") == std::vector<double>{1, 2, 3, 4});
  CHECK(record.shape(*record.find_array("blocks/precision")) == std::vector<int64_t>{2, 2});
  CHECK(record.find_array("blocks/loss")->units == "nats");
  CHECK(record.find_array("blocks/loss")->long_name == "training loss");
  CHECK(record.numbers("blocks/loss")[0] == 1.5);
  CHECK(std::isnan(record.numbers("blocks/loss")[1]));
  CHECK(record.strings("blocks/block") == std::vector<std::string>{"0.weight", "3.weight"});
  CHECK(record.strings("table/text") == std::vector<std::string>{"é, 0.5", ""});
  CHECK(std::get<std::vector<int64_t>>(record.values("table/seeds"))[1] == 4);
  CHECK(record.numbers("table/total") == std::vector<double>{0.25});
  CHECK(record.attribute("test/accuracy") == Attribute(0.98));
  CHECK(record.attribute("test/count") == Attribute(int64_t{10000}));
  CHECK(record.attribute("status") == Attribute("finished"));
  CHECK(record.attribute("config") == Attribute("lr = 0.1\n"));
  CHECK(std::get<std::string>(record.attribute("end")).size() == 20);
  CHECK(std::get<double>(record.attribute("wall_seconds")) >= 0);
  CHECK(is_finished_run(path));
  CHECK_THROWS_WITH(record.numbers("blocks/los"), Contains("did you mean \"blocks/loss\"?"));
  CHECK_THROWS_AS(record.numbers("table/text"), UsageError);
}

TEST_CASE("a resumed run goes on with its traces, less what is newer than the state",
          "[io][run][resume]") {
  const TemporaryFolder folder;
  const auto whole = folder / "whole.h5", part = folder / "part.h5";
  const auto steps = [](RunFile& run, const Traces& traces, int from, int to) {
    for (int t = from; t < to; ++t)
      run.append(traces.epoch, t,
                 {{traces.loss, {1.0 / (t + 1)}}, {traces.precision, {t + 0.5, 2}}});
  };
  {
    RunFile run(whole, provenance());
    steps(run, declare(run), 0, 6);
    run.finish();
    RunFile interrupted(part, provenance());
    steps(interrupted, declare(interrupted), 0, 4);
    interrupted.attribute("wall_seconds", 100.0);
    interrupted.stop("interrupted");
  }
  CHECK_FALSE(is_finished_run(part));
  CHECK(read_run(part).attribute("status") == Attribute("interrupted"));
  {
    auto later = provenance("layerwise --resume");
    later.start = "2025-02-01T00:00:00Z";
    auto run = RunFile::resume(part, later);
    const auto traces = declare(run);
    run.drop_after(traces.epoch, 2);  // the state is of epoch 2
    steps(run, traces, 3, 6);
    const auto fresh = run.series("blocks/fresh", {traces.epoch}, "declared late");
    run.append(traces.epoch, 6, {{fresh, {1}}});
    run.drop_after(traces.epoch, 5);
    run.finish();
  }
  for (const auto* array : {"blocks/epoch", "blocks/loss", "blocks/precision"})
    CHECK(numbers(part, array) == numbers(whole, array));
  CHECK(std::isnan(numbers(part, "blocks/fresh").at(0)));
  const auto record = read_run(part);
  CHECK(record.attribute("command") == Attribute("layerwise --resume"));
  CHECK(record.attribute("start") == Attribute("2025-01-31T12:00:00Z"));
  CHECK(record.attribute("status") == Attribute("finished"));
}

TEST_CASE("a resumed run counts the seconds of the runs before", "[io][run][resume]") {
  const TemporaryFolder folder;
  const auto path = folder / "run.h5";
  RunRecord earlier;
  earlier.attributes = {{"start", std::string("then")}, {"wall_seconds", 1000.0}};
  write_run(path, earlier);
  RunFile::resume(path, provenance()).finish();
  CHECK(std::get<double>(read_run(path).attribute("wall_seconds")) >= 1000);
}

TEST_CASE("a resumed run with other blocks is refused", "[io][run][resume]") {
  const TemporaryFolder folder;
  const auto path = folder / "run.h5";
  {
    RunFile run(path, provenance());
    declare(run);
    run.flush();
  }
  auto run = RunFile::resume(path, provenance());
  CHECK_THROWS_WITH(run.labels("blocks/block", {"0.weight"}), Contains("blocks/block"));
  CHECK_THROWS_AS(RunFile::resume(folder / "none.h5", provenance()), UsageError);
}

TEST_CASE("wrong use of a run file is refused and changes nothing", "[io][run]") {
  const TemporaryFolder folder;
  RunFile run(folder / "run.h5", provenance());
  const auto traces = declare(run);
  run.append(traces.epoch, 5, {});
  using Wrong = std::invalid_argument;
  CHECK_THROWS_AS(run.append(traces.epoch, 5, {}), Wrong);  // does not go up
  CHECK_THROWS_AS(run.append(traces.block, 6, {}), Wrong);
  CHECK_THROWS_AS(run.append(traces.epoch, 6, {{traces.loss, {1}}, {traces.precision, {1}}}),
                  Wrong);
  CHECK_THROWS_AS(run.series("trace/loss", {traces.epoch}, ""), Wrong);  // another group
  CHECK_THROWS_AS(run.series("blocks/x", {traces.block}, ""), Wrong);
  CHECK_THROWS_AS(run.array("blocks/x", {traces.epoch}, std::vector<double>{1}), Wrong);
  CHECK_THROWS_AS(run.array("blocks/x", {traces.block}, std::vector<double>{1}), Wrong);
  CHECK_THROWS_AS(run.unlimited("/trace/epoch"), Wrong);
  CHECK_THROWS_AS(run.array("blocks/epoch", {}, std::vector<double>{1}), Wrong);
  CHECK(run.record().numbers("blocks/epoch") == std::vector<double>{5});
  CHECK(run.record().numbers("blocks/loss").size() == 1);
  CHECK(run.record().numbers("blocks/precision").size() == 2);
}

TEST_CASE("a run that ends by an error leaves its last epoch", "[io][run]") {
  const TemporaryFolder folder;
  const auto path = folder / "run.h5";
  try {
    RunFile run(path, provenance());
    const auto traces = declare(run);
    run.append(traces.epoch, 0, {{traces.loss, {3}}});
    throw NumericalError("NaN in step 7");
  } catch (const NumericalError&) {
  }
  CHECK(numbers(path, "blocks/loss") == std::vector<double>{3});
}

TEST_CASE("append writes whole epochs, as often as it may", "[io][run]") {
  const TemporaryFolder folder;
  const auto seldom = folder / "seldom.h5", often = folder / "often.h5";
  RunFile calm(seldom, provenance(), std::chrono::hours(1));
  RunFile eager(often, provenance(), std::chrono::seconds(0));
  for (auto* run : {&calm, &eager}) {
    const auto traces = declare(*run);
    for (int t = 0; t < 3; ++t) run->append(traces.epoch, t, {{traces.loss, {1.0 * t}}});
  }
  CHECK_FALSE(std::filesystem::exists(seldom));
  CHECK(numbers(often, "blocks/loss") == std::vector<double>{0, 1});
}

TEST_CASE("a truncated or damaged run file is an I/O error", "[io][run]") {
  const TemporaryFolder folder;
  const auto path = folder / "run.h5";
  {
    RunFile run(path, provenance());
    const auto traces = declare(run);
    for (int t = 0; t < 5000; ++t) run.append(traces.epoch, t, {{traces.loss, {std::sin(t)}}});
    run.finish();
  }
  const auto bytes = read_file(path);
  for (size_t part = 0; part < 36; ++part) {
    write_text(path, bytes.substr(0, part * bytes.size() / 40));
    CAPTURE(part);
    CHECK_THROWS_AS(read_run(path), IoError);
  }
  write_text(path, std::string(5000, 'x'));
  CHECK_THROWS_WITH(RunFile::resume(path, provenance()),
                    Contains("run.h5: damaged or no run file"));
  CHECK_THROWS_AS(is_finished_run(path), IoError);
  CHECK_FALSE(is_finished_run(folder / "none.h5"));
}

TEST_CASE("a run file in a folder that is not there is an I/O error", "[io][run]") {
  const TemporaryFolder folder;
  RunFile run(folder / "none" / "run.h5", provenance());
  CHECK_THROWS_AS(run.flush(), IoError);
}

TEST_CASE("a kill while the run file is written leaves a readable one", "[io][run]") {
  const TemporaryFolder folder;
  const auto path = folder / "run.h5";
  RunFile(path, provenance()).flush();
  for (int round = 0; round < 8; ++round) {
    std::optional<RunFile> writer;
    std::optional<Traces> traces;
    double t = 0;
    const auto write_epoch = [&] {
      if (!writer) traces = declare(writer.emplace(path, provenance()));
      writer->append(traces->epoch, t, {{traces->loss, {t}}, {traces->precision, {1, 2}}});
      writer->flush();
      ++t;
    };
    kill_while(write_epoch,
               [&] { sha256_hex(std::string(static_cast<size_t>(40'000 * round), 'x')); });
    const auto record = read_run(path);
    REQUIRE(record.numbers("blocks/loss") == record.numbers("blocks/epoch"));
  }
}
