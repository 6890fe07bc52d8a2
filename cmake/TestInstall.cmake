# cmake -D build=<built tree> -D source=<project> -D compiler=<c++> -P TestInstall.cmake
# Installs the tree into <build>/installed, then configures, builds and runs the project with it.
set(prefix ${build}/installed)
file(REMOVE_RECURSE ${prefix} ${build}/examples)
foreach(step IN ITEMS
    "${CMAKE_COMMAND};--install;${build};--prefix;${prefix}"
    "${CMAKE_COMMAND};-G;Ninja;-S;${source};-B;${build}/examples;-DCMAKE_PREFIX_PATH=${prefix};-DCMAKE_CXX_COMPILER=${compiler};-DCMAKE_BUILD_TYPE=Release"
    "${CMAKE_COMMAND};--build;${build}/examples"
    "${build}/examples/outside"
    "${build}/examples/blurred_linear")
  execute_process(COMMAND ${step} COMMAND_ERROR_IS_FATAL ANY)
endforeach()
