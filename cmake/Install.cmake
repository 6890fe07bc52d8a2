# find_package(evariste) gives evariste::core, io, data, laplace, nn, train.
include(CMakePackageConfigHelpers)
get_property(libraries GLOBAL PROPERTY EVARISTE_LIBRARIES)
install(TARGETS ${libraries} evariste_torch EXPORT evariste
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY laplace DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/evariste
        FILES_MATCHING PATTERN "*.h")
install(DIRECTORY src/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/evariste FILES_MATCHING PATTERN "*.h")
set_target_properties(evariste_torch PROPERTIES EXPORT_NAME torch)
install(EXPORT evariste NAMESPACE evariste:: FILE evariste-targets.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/evariste)
configure_package_config_file(cmake/evariste-config.cmake.in
  ${PROJECT_BINARY_DIR}/evariste-config.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/evariste)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/evariste-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/evariste-config.cmake
              ${PROJECT_BINARY_DIR}/evariste-config-version.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/evariste)
