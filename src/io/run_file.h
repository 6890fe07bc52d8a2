// run.h5, the record of one run, with named dimensions, replaced whole as the run goes on:
//
//   RunFile run(out / "run.h5", collect_provenance(config, command_line));
//   const auto epoch = run.unlimited("blocks/epoch");
//   const auto block = run.labels("blocks/block", names);
//   const auto precision = run.series("blocks/prior_precision", {epoch, block}, "prior precision");
//   for (int t = 0; t < epochs; ++t) run.append(epoch, t, {{precision, precisions}});
//   run.finish({{"test/accuracy", accuracy}});
//
// Everything is held in memory (run_record.h) and written at most every few seconds, so a kill
// loses that much and never damages the file. A state to resume from must not be newer than the
// record: `flush()` first, then save the state; after RunFile::resume, `drop_after` the state's
// epoch.
//
// To declare a name again, in a resumed run say, gives the handle that is there. Wrong use by a
// program (an array outside the group of its dimensions, a wrong number of values) throws
// std::invalid_argument. Not for use by several threads at once.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/provenance.h"
#include "io/run_record.h"

namespace evariste {

class RunFile {
 public:
  static constexpr std::chrono::seconds kWriteEvery{5};

  struct Dimension {
    size_t index;
  };
  struct Series {
    size_t index;
  };
  using Row = std::pair<Series, std::vector<double>>;

  /// A new record; nothing is written yet. `path` is replaced at the first write. Without a path
  /// it stays in memory: for processes that leave the writing to another.
  RunFile(std::filesystem::path path, Provenance provenance,
          std::chrono::steady_clock::duration write_every = kWriteEvery);

  /// Goes on with the record at `path`: its dimensions, arrays and traces, its start and its wall
  /// seconds, the rest of the provenance new. Throws UsageError where there is no file, IoError
  /// where it is damaged.
  static RunFile resume(std::filesystem::path path, Provenance provenance,
                        std::chrono::steady_clock::duration write_every = kWriteEvery);

  /// Writes what is pending; a failure to do so is ignored here, so `flush` or `finish` before.
  ~RunFile();
  RunFile(RunFile&& other) noexcept;
  RunFile& operator=(RunFile&&) = delete;

  /// A dimension that grows by `append`; its name is the last part of the path, its group the rest.
  Dimension unlimited(std::string_view path, std::string_view long_name = "",
                      std::string_view units = "");
  /// A dimension of names: `.sel(block="0.weight")`. Throws UsageError where a resumed record has
  /// other names or values.
  Dimension labels(std::string_view path, std::vector<std::string> names,
                   std::string_view long_name = "");
  /// A dimension of numbers.
  Dimension values(std::string_view path, std::vector<double> values,
                   std::string_view long_name = "", std::string_view units = "");
  Dimension values(std::string_view path, std::vector<int64_t> values,
                   std::string_view long_name = "", std::string_view units = "");

  /// A trace of doubles over {unlimited, others...} of its group. Epochs before it was declared are
  /// NaN.
  Series series(std::string_view path, const std::vector<Dimension>& dimensions,
                std::string_view long_name, std::string_view units = "");

  /// A fixed array, row-major over fixed dimensions of its group; again: replaces the values.
  void array(std::string_view path, const std::vector<Dimension>& dimensions, Values values,
             std::string_view long_name = "", std::string_view units = "");

  /// One more position of an unlimited dimension, `value` above the last, with one row (row-major
  /// over the other dimensions) of each series given; the other series over it get NaN. Writes what
  /// was there before, when the last write is `write_every` ago. Throws IoError then.
  void append(Dimension unlimited, double value, const std::vector<Row>& rows);

  /// Forgets the positions of `unlimited` whose value is above `last`.
  void drop_after(Dimension unlimited, double last);

  /// A root attribute: sets or replaces.
  void attribute(const std::string& name, Attribute value);

  /// Writes now. Throws IoError: disk full, no permission.
  void flush();

  /// Adds root attributes, sets status "finished", end and wall_seconds, and writes.
  void finish(const std::map<std::string, Attribute>& attributes = {});

  /// Status "interrupted" or "failed", end and wall_seconds, and writes.
  void stop(std::string_view status);

  const RunRecord& record() const { return record_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  Dimension declare(RunDimension dimension);
  RunArray* find(std::string_view path);
  std::vector<size_t> dimensions_of(std::string_view path,
                                    const std::vector<Dimension>& dimensions) const;
  int64_t row_size(const RunArray& array) const;

  std::filesystem::path path_;
  RunRecord record_;
  std::chrono::steady_clock::duration write_every_;
  std::chrono::steady_clock::time_point started_, written_;
  double earlier_seconds_ = 0;  // of the runs before a resume
  bool is_pending_ = false;
};

}  // namespace evariste
