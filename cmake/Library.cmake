# evariste_library(name SOURCES ... LINK ...): a static library evariste::name whose headers are
# included as <folder/header.h>. TORCH libraries share one precompiled header.
function(evariste_library name)
  cmake_parse_arguments(arg "TORCH" "" "SOURCES;LINK" ${ARGN})
  add_library(evariste_${name} STATIC ${arg_SOURCES})
  add_library(evariste::${name} ALIAS evariste_${name})
  set_target_properties(evariste_${name} PROPERTIES EXPORT_NAME ${name})
  target_compile_features(evariste_${name} PUBLIC cxx_std_20)
  target_compile_definitions(evariste_${name} PUBLIC FMT_HEADER_ONLY TOML_HEADER_ONLY=1)
  target_include_directories(evariste_${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/evariste>)
  target_link_libraries(evariste_${name} PUBLIC ${arg_LINK} PRIVATE $<BUILD_INTERFACE:evariste_flags>)
  if(arg_TORCH)
    target_link_libraries(evariste_${name} PUBLIC evariste::torch)
    evariste_torch_pch(evariste_${name})
  endif()
  set_property(GLOBAL APPEND PROPERTY EVARISTE_LIBRARIES evariste_${name})
endfunction()

# torch's headers, precompiled once. GCC instantiates at the end of every file what their inline
# functions name, so that all of torch/torch.h about doubles the time of a small file: what only a few
# files need (torch::autograd::grad, functional, cuda) they include.
if(NOT EXISTS ${PROJECT_BINARY_DIR}/pch.cpp)  # written again, it would be newer than all that uses it
  file(WRITE ${PROJECT_BINARY_DIR}/pch.cpp "")
endif()
add_library(evariste_pch OBJECT ${PROJECT_BINARY_DIR}/pch.cpp)
target_compile_definitions(evariste_pch PRIVATE FMT_HEADER_ONLY TOML_HEADER_ONLY=1)
target_link_libraries(evariste_pch PRIVATE evariste_flags evariste::torch)
target_precompile_headers(evariste_pch PRIVATE <torch/nn/module.h> <torch/types.h> <torch/utils.h>
  <fmt/format.h> <fmt/ranges.h>)

function(evariste_torch_pch target)
  target_precompile_headers(${target} REUSE_FROM evariste_pch)
endfunction()

# evariste_program(name sources...): a program in build/bin.
function(evariste_program name)
  cmake_parse_arguments(arg "" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_LINK} evariste_flags)
  evariste_torch_pch(${name})
  install(TARGETS ${name} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endfunction()
