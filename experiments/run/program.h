// What `layerwise` and `steerable` share: a program that runs what a TOML file describes.
#pragma once

namespace evariste {

struct Experiment {
  const char* name;   ///< of the program, and of its folder of TOML files
  const char* about;  ///< one sentence for --help
  const char* first;  ///< the file it takes without --config, without ".toml"
};

/// main: trainings by the evidence and their controls, tables, summary, report. The exit code.
int run_experiment(const Experiment& experiment, int argc, char** argv);

}  // namespace evariste
