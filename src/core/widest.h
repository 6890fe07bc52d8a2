// Loops compiled for the widest vector instructions of the machine at hand.
#pragma once

/// Before a function: it is compiled for several instruction sets and the best one is chosen when
/// the program starts. Sanitizers cannot follow the dispatch.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define EVARISTE_WIDEST \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EVARISTE_WIDEST
#endif
