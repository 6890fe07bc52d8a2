# The installed package: find_package(evariste) gives evariste::<name> for every library made by
# evariste_library. The wheel's torch is not part of it: evariste-config.cmake looks for it again.
include(CMakePackageConfigHelpers)
set(evariste_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/evariste)
get_property(libraries GLOBAL PROPERTY EVARISTE_LIBRARIES)

# Exported as a target without content, which the configuration file fills.
foreach(property INTERFACE_INCLUDE_DIRECTORIES INTERFACE_SYSTEM_INCLUDE_DIRECTORIES
                 INTERFACE_LINK_LIBRARIES)
  get_target_property(value evariste_torch ${property})
  if(value)
    set_target_properties(evariste_torch PROPERTIES ${property} "$<BUILD_INTERFACE:${value}>")
  endif()
endforeach()
set_target_properties(evariste_torch PROPERTIES EXPORT_NAME torch)
file(STRINGS ${EVARISTE_TORCH_DIR}/include/torch/headeronly/version.h EVARISTE_TORCH_VERSION
     REGEX "\"[0-9.]+\"")
string(REGEX REPLACE ".*\"([0-9.]+)\".*" "\\1" EVARISTE_TORCH_VERSION "${EVARISTE_TORCH_VERSION}")

# The packages whose targets our libraries name, e.g. Eigen3::Eigen, are found again by the user.
set(EVARISTE_DEPENDENCIES "")
foreach(library IN LISTS libraries)
  get_target_property(links ${library} INTERFACE_LINK_LIBRARIES)
  string(REGEX MATCHALL "[A-Za-z0-9_]+::[A-Za-z0-9_]+" targets "${links}")
  list(FILTER targets EXCLUDE REGEX "^evariste::")
  foreach(target IN LISTS targets)
    string(REGEX REPLACE "::.*" "" package ${target})
    string(REGEX REPLACE ".*::" "" component ${target})
    if(package STREQUAL "hdf5" OR package STREQUAL "HDF5")
      set(line "enable_language(C)\nfind_dependency(HDF5 COMPONENTS C HL)")
    elseif(package STREQUAL "Boost" AND NOT component MATCHES "^(boost|headers)$")
      get_target_property(type ${target} TYPE)
      if(type STREQUAL "STATIC_LIBRARY")
        list(APPEND EVARISTE_DEPENDENCIES "set(Boost_USE_STATIC_LIBS ON)")
      endif()
      set(line "find_dependency(Boost CONFIG COMPONENTS ${component})")
    else()
      set(line "find_dependency(${package})")
    endif()
    list(APPEND EVARISTE_DEPENDENCIES "${line}")
  endforeach()
endforeach()
list(REMOVE_DUPLICATES EVARISTE_DEPENDENCIES)
list(JOIN EVARISTE_DEPENDENCIES "\n" EVARISTE_DEPENDENCIES)

install(TARGETS ${libraries} evariste_torch EXPORT evariste
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY laplace src/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/evariste
        FILES_MATCHING PATTERN "*.h")
install(EXPORT evariste NAMESPACE evariste:: FILE evariste-targets.cmake
        DESTINATION ${evariste_package_dir})
configure_package_config_file(cmake/evariste-config.cmake.in
  ${PROJECT_BINARY_DIR}/evariste-config.cmake INSTALL_DESTINATION ${evariste_package_dir}
  NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/evariste-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/evariste-config.cmake
              ${PROJECT_BINARY_DIR}/evariste-config-version.cmake
        DESTINATION ${evariste_package_dir})

# examples/ is a project of its own: built against what `cmake --install` leaves behind, then run.
if(EVARISTE_TESTS AND NOT EVARISTE_SANITIZE)
  add_test(NAME "install: a project of its own builds with find_package(evariste) and runs"
    COMMAND ${CMAKE_COMMAND} -D build=${PROJECT_BINARY_DIR}
            -D source=${PROJECT_SOURCE_DIR}/examples -D compiler=${CMAKE_CXX_COMPILER}
            -P ${PROJECT_SOURCE_DIR}/cmake/TestInstall.cmake)
endif()
