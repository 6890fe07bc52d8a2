#include "io/build_info.h"

#include "git_revision.h"

namespace evariste {

std::string git_sha() { return EVARISTE_GIT_SHA; }
bool is_git_dirty() { return EVARISTE_GIT_DIRTY; }

}  // namespace evariste
