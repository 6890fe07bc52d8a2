// How the process treats memory that it has freed.
#pragma once

namespace evariste {

/// Keeps freed memory for the next tensor in place of giving it back to the system, which would map
/// and clear it again page by page, which tells where activations take megabytes. The process stays
/// as large as it has been once. For programs, at their start; does nothing where the C library has
/// no such choice.
void keep_freed_memory();

}  // namespace evariste
