# Sets EVARISTE_HAS_CUDA: whether the kernels of laplace/cuda are built, which takes an nvcc and a torch
# that is a CUDA build of the same major version.
#
# The kernels are compiled by nvcc directly, not as a CMake language: what links them stays a C++
# program, so that find_package(evariste) works where there is no toolkit. The CUDA runtime is the one
# torch brings along.
set(EVARISTE_HAS_CUDA FALSE)
set(missing "")
if(EVARISTE_CUDA STREQUAL "AUTO" AND EVARISTE_SANITIZE)
  set(missing "not looked for in sanitizer builds")
elseif(EVARISTE_CUDA)
  include(CheckLanguage)
  check_language(CUDA)
  file(GLOB EVARISTE_CUDART ${EVARISTE_TORCH_DIR}/../nvidia/*/lib/libcudart.so.*
       ${EVARISTE_TORCH_DIR}/lib/libcudart*.so.*)
  if(NOT CMAKE_CUDA_COMPILER)
    set(missing "no CUDA compiler was found; set CUDACXX to nvcc")
  elseif(NOT EXISTS ${EVARISTE_TORCH_DIR}/lib/libtorch_cuda.so OR NOT EVARISTE_CUDART)
    set(missing "${EVARISTE_TORCH_DIR} is not a CUDA build of torch")
  else()
    list(GET EVARISTE_CUDART 0 EVARISTE_CUDART)
    file(REAL_PATH ${EVARISTE_CUDART} EVARISTE_CUDART)
    string(REGEX REPLACE ".*\\.so\\.([0-9]+).*" "\\1" runtime ${EVARISTE_CUDART})
    execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --version OUTPUT_VARIABLE version)
    string(REGEX REPLACE ".*release ([0-9]+).*" "\\1" toolkit "${version}")
    if(toolkit STREQUAL runtime)
      set(EVARISTE_HAS_CUDA TRUE)
    else()
      set(missing "${CMAKE_CUDA_COMPILER} is CUDA ${toolkit}, torch is built for CUDA ${runtime}")
    endif()
  endif()
endif()
if(missing AND NOT EVARISTE_CUDA STREQUAL "AUTO")
  message(FATAL_ERROR "EVARISTE_CUDA=${EVARISTE_CUDA}: ${missing}, or use -DEVARISTE_CUDA=AUTO")
elseif(missing)
  message(STATUS "CUDA: ${missing}; without kernels for a GPU")
endif()
if(NOT EVARISTE_HAS_CUDA)
  return()
endif()

if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES "80;90" CACHE STRING "Compute capabilities, machine code only")
endif()
message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER} for ${CMAKE_CUDA_ARCHITECTURES}")
get_filename_component(toolkit ${CMAKE_CUDA_COMPILER} REALPATH)
get_filename_component(toolkit ${toolkit} DIRECTORY)
find_path(EVARISTE_CUDA_INCLUDE cuda_runtime_api.h HINTS ${toolkit}/../include
          ${toolkit}/../targets/x86_64-linux/include REQUIRED)

# libtorch_cuda itself is loaded when a GPU is asked for (laplace/device.cpp).
get_filename_component(cudart_folder ${EVARISTE_CUDART} DIRECTORY)
set(EVARISTE_CUDA_LIBRARIES ${EVARISTE_TORCH_DIR}/lib/libc10_cuda.so ${EVARISTE_CUDART})
target_link_libraries(evariste_torch INTERFACE "${EVARISTE_CUDA_LIBRARIES}")
list(APPEND CMAKE_BUILD_RPATH ${cudart_folder} ${PROJECT_BINARY_DIR}/lib)
list(APPEND CMAKE_INSTALL_RPATH ${cudart_folder} "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")

# evariste_cuda_objects(variable sources...): the objects nvcc makes of .cu files.
function(evariste_cuda_objects variable)
  set(flags -std=c++20 -O3 -lineinfo -Xcompiler=-fPIC,-Wall,-Wextra,-Wshadow)
  if(EVARISTE_WERROR)
    list(APPEND flags -Werror=all-warnings -Xcompiler=-Werror)
  endif()
  foreach(architecture IN LISTS CMAKE_CUDA_ARCHITECTURES)
    string(REGEX REPLACE "-.*" "" number ${architecture})
    list(APPEND flags -gencode=arch=compute_${number},code=sm_${number})
  endforeach()
  set(objects "")
  foreach(source IN LISTS ARGN)
    set(object ${CMAKE_CURRENT_BINARY_DIR}/${source}.o)
    get_filename_component(folder ${object} DIRECTORY)
    file(MAKE_DIRECTORY ${folder})
    add_custom_command(OUTPUT ${object}
      COMMAND ${CMAKE_CUDA_COMPILER} -ccbin ${CMAKE_CXX_COMPILER} ${flags} -I${PROJECT_SOURCE_DIR}
              -MD -MF ${object}.d -c ${CMAKE_CURRENT_SOURCE_DIR}/${source} -o ${object}
      DEPENDS ${source} DEPFILE ${object}.d COMMENT "nvcc ${source}" VERBATIM)
    set_source_files_properties(${object} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
    list(APPEND objects ${object})
  endforeach()
  set(${variable} ${objects} PARENT_SCOPE)
endfunction()
