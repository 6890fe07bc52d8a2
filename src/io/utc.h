// Times as people and notebooks read them.
#pragma once

#include <string>

namespace evariste {

/// Now, as `2025-01-31T12:00:00Z`.
std::string utc_now();

}  // namespace evariste
