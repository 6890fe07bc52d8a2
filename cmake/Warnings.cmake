# Flags of our own code only; dependencies are SYSTEM.
add_library(evariste_flags INTERFACE)
target_compile_options(evariste_flags INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion
                                                -Wno-sign-conversion -fopenmp-simd)
if(EVARISTE_WERROR)
  target_compile_options(evariste_flags INTERFACE -Werror)
endif()
# torch carries its own fmt; header-only use keeps two versions apart (linking Debian's libfmt does not).
target_compile_definitions(evariste_flags INTERFACE FMT_HEADER_ONLY TOML_HEADER_ONLY=1)
if(EVARISTE_SANITIZE)
  add_compile_options(-fsanitize=${EVARISTE_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${EVARISTE_SANITIZE})
  # Instrumented code looks uninitialised to the compiler where it is not.
  target_compile_options(evariste_flags INTERFACE -Wno-maybe-uninitialized)
endif()

find_program(EVARISTE_MOLD mold)
if(EVARISTE_MOLD)
  add_link_options(-fuse-ld=mold)
endif()
find_program(EVARISTE_CCACHE ccache)
if(EVARISTE_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros ${EVARISTE_CCACHE})
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)
endif()
