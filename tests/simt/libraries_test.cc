// Where NVIDIA's libraries are looked for.
#include "kernels/cuda/libraries.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>

#include "tests/unit/engine/model_files.h"

namespace sluice::cuda {
namespace {

using testing::ElementsAre;

// Sets a variable of the environment while it lives.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    setenv(name, value.c_str(), 1);
  }
  ~Variable() { before_ ? setenv(name_, before_->c_str(), 1) : unsetenv(name_); }

 private:
  const char* name_;
  std::optional<std::string> before_;
};

TEST(Libraries, AreLookedForInEnvironmentsAndTheHomeOfTheUser) {
  constexpr const char* kName = "libof_this_test.so.1";
  TempDir dir;
  const auto put = [&](const std::string& where) {
    const std::filesystem::path file = dir.path() / where / kName;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << "x";
    return file.string();
  };
  const std::string site = "/lib/python3.12/site-packages/nvidia/cublas/lib";
  const std::string in_venv = put("a venv" + site), in_conda = put("conda/lib"),
                    at_home = put("home/.local" + site);
  const std::string root = dir.path().string();
  Variable venv("VIRTUAL_ENV", ""), conda("CONDA_PREFIX", ""), home("HOME", root + "/nobody");
  EXPECT_THAT(library_candidates(kName, ""), ElementsAre(kName));
  EXPECT_THAT(library_candidates(kName, "/opt/ours"),
              ElementsAre(std::string("/opt/ours/") + kName, kName));
  Variable this_venv("VIRTUAL_ENV", root + "/a venv"), this_conda("CONDA_PREFIX", root + "/conda"),
      this_home("HOME", root + "/home");
  EXPECT_THAT(library_candidates(kName, ""), ElementsAre(kName, in_venv, in_conda, at_home));
}

}  // namespace
}  // namespace sluice::cuda
