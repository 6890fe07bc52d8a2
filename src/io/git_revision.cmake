# Writes HEADER with the commit of SOURCE_DIR and whether tracked files differ from it; leaves the
# file alone where nothing changed.
set(sha "unknown")
set(dirty "false")
find_program(GIT git)
if(GIT)
  execute_process(COMMAND ${GIT} -C ${SOURCE_DIR} rev-parse HEAD
    OUTPUT_VARIABLE head OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
  if(NOT failed)
    set(sha ${head})
    # Without optional locks: a build must not get in the way of a commit.
    execute_process(
      COMMAND ${GIT} --no-optional-locks -C ${SOURCE_DIR} status --porcelain --untracked-files=no
      OUTPUT_VARIABLE changes OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    if(changes)
      set(dirty "true")
    endif()
  endif()
endif()
file(CONFIGURE OUTPUT ${HEADER} CONTENT [[
#define EVARISTE_GIT_SHA "@sha@"
#define EVARISTE_GIT_DIRTY @dirty@
]] @ONLY)
