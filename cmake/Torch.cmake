# evariste::torch from the PyPI wheel, without find_package(Torch): that fails where there is no CUDA
# toolkit, because the wheel is a CUDA build. Its CPU libraries; Cuda.cmake adds the others.
if(NOT EVARISTE_TORCH_DIR)
  execute_process(
    COMMAND ${EVARISTE_VENV}/bin/python -c
            "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
    OUTPUT_VARIABLE EVARISTE_TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(NOT EXISTS "${EVARISTE_TORCH_DIR}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "torch was not found in ${EVARISTE_VENV}: run tools/setup, or pass "
                      "-DEVARISTE_VENV=<environment> or -DEVARISTE_TORCH_DIR=<.../site-packages/torch>")
endif()
set(EVARISTE_TORCH_DIR ${EVARISTE_TORCH_DIR} CACHE PATH "The wheel's torch folder")

add_library(evariste_torch INTERFACE)
add_library(evariste::torch ALIAS evariste_torch)
target_include_directories(evariste_torch SYSTEM INTERFACE
  ${EVARISTE_TORCH_DIR}/include ${EVARISTE_TORCH_DIR}/include/torch/csrc/api/include)
target_link_libraries(evariste_torch INTERFACE
  ${EVARISTE_TORCH_DIR}/lib/libtorch_cpu.so ${EVARISTE_TORCH_DIR}/lib/libc10.so)
set(CMAKE_BUILD_RPATH ${EVARISTE_TORCH_DIR}/lib)
set(CMAKE_INSTALL_RPATH ${EVARISTE_TORCH_DIR}/lib)
