# What `cmake --install` puts where, and what the target `package` makes of it: Debian packages
# (sluice, sluice-cuda, sluice-demo-model) and a tarball that runs wherever it is unpacked.
#
# Components: daemon (the program and what describes it), cuda (the engine for GPUs, if it was built),
# demo (the demo model), debian (what belongs to a Debian system), bundle (shared libraries beside the
# program, where the system is not to be asked for them: tarball and images).

# The program finds bundled libraries, and they each other: a DT_RPATH holds for what its libraries
# need, too, a DT_RUNPATH does not.
set_target_properties(sluice PROPERTIES BUILD_WITH_INSTALL_RPATH ON INSTALL_RPATH "$ORIGIN/../lib/sluice")
target_link_options(sluice PRIVATE -Wl,--disable-new-dtags)

# Man page, completions and notices are made by the program itself, when they are installed.
set(manual ${CMAKE_BINARY_DIR}/manual)
install(CODE "execute_process(COMMAND ${CMAKE_SOURCE_DIR}/deploy/manual.sh $<TARGET_FILE:sluice> ${manual}
                              COMMAND_ERROR_IS_FATAL ANY)" COMPONENT daemon)

install(TARGETS sluice RUNTIME_DEPENDENCY_SET libraries RUNTIME DESTINATION bin COMPONENT daemon)
install(FILES ${manual}/sluice.1.gz DESTINATION share/man/man1 COMPONENT daemon)
install(FILES ${manual}/sluice.bash DESTINATION share/bash-completion/completions RENAME sluice COMPONENT daemon)
install(FILES ${manual}/_sluice DESTINATION share/zsh/vendor-completions COMPONENT daemon)
install(FILES ${manual}/sluice.fish DESTINATION share/fish/vendor_completions.d COMPONENT daemon)
install(FILES LICENSE ${manual}/THIRD-PARTY-NOTICES.gz DESTINATION share/doc/sluice COMPONENT daemon)
install(FILES LICENSE DESTINATION share/doc/sluice RENAME copyright COMPONENT debian)

if(SLUICE_HAVE_CUDA)
  install(TARGETS sluice_cuda LIBRARY DESTINATION lib/sluice COMPONENT cuda)
  install(FILES LICENSE DESTINATION share/doc/sluice-cuda RENAME copyright COMPONENT cuda)
endif()

install(FILES deploy/demo-model/config.json deploy/demo-model/generation_config.json
              deploy/demo-model/model.safetensors deploy/demo-model/special_tokens_map.json
              deploy/demo-model/tokenizer.json deploy/demo-model/tokenizer_config.json
              deploy/demo-model/README.md
        DESTINATION share/sluice/demo-model COMPONENT demo)
install(FILES LICENSE DESTINATION share/doc/sluice-demo-model RENAME copyright COMPONENT demo)

install(FILES deploy/systemd/sluice.service deploy/systemd/sluice.socket deploy/systemd/sluice-grpc.socket
        DESTINATION lib/systemd/system COMPONENT debian)
# For those who know only the package: what goes in front of it, and what watches it.
install(FILES deploy/systemd/gpu.conf deploy/prometheus/alerts.yml DESTINATION share/doc/sluice/examples COMPONENT debian)
install(FILES deploy/grafana/sluice.json DESTINATION share/doc/sluice/examples RENAME dashboard.json COMPONENT debian)
install(DIRECTORY deploy/balancers DESTINATION share/doc/sluice/examples COMPONENT debian)
install(FILES deploy/debian/sluice.toml DESTINATION /etc/sluice COMPONENT debian)

# Of the C library and the compiler's every system has its own, and newer ones serve.
install(RUNTIME_DEPENDENCY_SET libraries
        PRE_EXCLUDE_REGEXES "^(libc|libm|ld-linux.*|libgcc_s|libstdc\\+\\+)\\.so"
        LIBRARY DESTINATION lib/sluice COMPONENT bundle)

set(CPACK_GENERATOR DEB TGZ)
set(CPACK_PACKAGE_NAME sluice)
set(CPACK_PACKAGE_VENDOR "The Sluice authors")
set(CPACK_PACKAGE_CONTACT "The Sluice authors <sluice@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Server for large language models")
set(CPACK_PACKAGE_DIRECTORY ${CMAKE_BINARY_DIR}/packages)
set(CPACK_PACKAGE_FILE_NAME sluice-${PROJECT_VERSION}-linux-${CMAKE_SYSTEM_PROCESSOR})
set(CPACK_STRIP_FILES ON)
set(CPACK_VERBATIM_VARIABLES ON)
set(CPACK_THREADS 0)
set(CPACK_PROJECT_CONFIG_FILE ${CMAKE_SOURCE_DIR}/cmake/package_kinds.cmake)

set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_SLUICE_PACKAGE_NAME sluice)
set(CPACK_DEBIAN_SLUICE_DESCRIPTION "One process that serves a model over an OpenAI-compatible HTTP API and gRPC.")
set(CPACK_DEBIAN_SLUICE_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_SLUICE_PACKAGE_DEPENDS "adduser")
set(CPACK_DEBIAN_SLUICE_PACKAGE_SUGGESTS "sluice-demo-model, sluice-cuda")
set(CPACK_DEBIAN_SLUICE_PACKAGE_CONTROL_EXTRA
    ${CMAKE_SOURCE_DIR}/deploy/debian/conffiles ${CMAKE_SOURCE_DIR}/deploy/debian/postinst
    ${CMAKE_SOURCE_DIR}/deploy/debian/prerm ${CMAKE_SOURCE_DIR}/deploy/debian/postrm)
set(CPACK_DEBIAN_CUDA_PACKAGE_NAME sluice-cuda)
set(CPACK_DEBIAN_CUDA_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_CUDA_PACKAGE_DEPENDS "sluice (= ${PROJECT_VERSION})")
set(CPACK_DEBIAN_DEMO_PACKAGE_NAME sluice-demo-model)
set(CPACK_DEBIAN_DEMO_PACKAGE_ARCHITECTURE all)

include(CPack)
cpack_add_component_group(sluice)
cpack_add_component(daemon GROUP sluice)
cpack_add_component(debian GROUP sluice)
cpack_add_component(bundle GROUP sluice)
cpack_add_component(demo DESCRIPTION "A toy model that answers in simple sentences, to try Sluice with.")
if(SLUICE_HAVE_CUDA)
  cpack_add_component(cuda DESCRIPTION "The engine of Sluice for NVIDIA GPUs. Needs the driver and libcublasLt.")
endif()
