// What is known when the program is built.
#pragma once

#include <string>

namespace evariste {

std::string git_sha();  ///< "unknown" outside a repository
bool is_git_dirty();

}  // namespace evariste
