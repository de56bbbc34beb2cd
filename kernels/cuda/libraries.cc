#include "kernels/cuda/libraries.h"

#include <unistd.h>
#include <wordexp.h>

namespace sluice::cuda {
namespace {

// As a shell expands them: a * stands for any version, ~ for the home of the user who starts the
// daemon, a variable for the root of an environment while that is active.
constexpr const char* kFolders[] = {
    "\"$VIRTUAL_ENV\"/lib/python3*/site-packages/nvidia/*/lib",
    "\"$CONDA_PREFIX\"/lib/python3*/site-packages/nvidia/*/lib",
    "\"$CONDA_PREFIX\"/lib",
    "/usr/local/cuda/lib64",
    "/usr/local/cuda-*/lib64",
    "/usr/local/cuda-*/targets/*/lib",
    "/usr/local/lib/python3*/*-packages/nvidia/*/lib",
    "/usr/lib/python3*/*-packages/nvidia/*/lib",
    "/opt/*/lib/python3*/site-packages/nvidia/*/lib",
    "~/.local/lib/python3*/site-packages/nvidia/*/lib",
};

}  // namespace

std::vector<std::string> library_candidates(const std::string& name, const std::string& folder) {
  std::vector<std::string> files;
  if (!folder.empty()) files.push_back(folder + "/" + name);
  files.push_back(name);
  for (const std::string pattern : kFolders) {
    wordexp_t found{};
    // Fails where a variable is not set or empty.
    if (wordexp((pattern + "/" + name).c_str(), &found, WRDE_NOCMD | WRDE_UNDEF) == 0) {
      for (size_t i = 0; i < found.we_wordc; ++i)  // what matches nothing stays as it is
        if (access(found.we_wordv[i], F_OK) == 0) files.push_back(found.we_wordv[i]);
    }
    wordfree(&found);
  }
  return files;
}

}  // namespace sluice::cuda
