#pragma once

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/status.h"

// What targets that fuzz files share.
namespace sluice {

// A directory of this process, in memory where the system has such a place.
class FuzzDir {
 public:
  FuzzDir() {
    std::error_code error;
    std::filesystem::path parent = "/dev/shm";
    if (!std::filesystem::is_directory(parent, error))
      parent = std::filesystem::temp_directory_path();
    std::string name = (parent / "sluice-fuzz-XXXXXX").string();
    CHECK(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~FuzzDir() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  FuzzDir(const FuzzDir&) = delete;
  FuzzDir& operator=(const FuzzDir&) = delete;

  const std::filesystem::path& path() const { return path_; }
  void put(const char* name, std::string_view bytes) const {
    std::ofstream(path_ / name, std::ios::binary) << bytes;
  }

 private:
  std::filesystem::path path_;
};

// Whatever is wrong with a file is said in one line.
inline void check_line(std::string_view text) {
  CHECK(!text.empty() && text.size() < 4000 && text.find('\n') == std::string_view::npos);
}
inline void check_line(const absl::Status& status) {
  CHECK(!status.ok());
  check_line(message_of(status));
}

// An input of two files: what comes before its first zero byte, and what comes after.
struct TwoFiles {
  explicit TwoFiles(std::string_view input)
      : first(input.substr(0, input.find('\0'))),
        second(first.size() < input.size() ? input.substr(first.size() + 1) : "") {}
  std::string_view first, second;
};

}  // namespace sluice
