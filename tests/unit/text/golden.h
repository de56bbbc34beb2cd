#pragma once

#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/types.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

// Fixtures of tests/golden/tokenizer and the generator of the strings that they speak of.
namespace sluice::golden {

inline std::string read(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  CHECK(in.good());
  return {std::istreambuf_iterator<char>(in), {}};
}

inline std::filesystem::path fixtures() {
  return std::filesystem::path(SLUICE_SOURCE_DIR) / "tests/golden/tokenizer";
}

inline nlohmann::json fixture(const std::string& name) {
  return nlohmann::json::parse(read(fixtures() / name));
}

// A model directory that holds these texts, gone at the end.
class ModelDir {
 public:
  explicit ModelDir(std::string_view tokenizer_json) {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("sluice_text_" + std::to_string(getpid()) + "_" + std::to_string(count++));
    std::filesystem::create_directories(path_);
    write("tokenizer.json", tokenizer_json);
  }
  ModelDir() : ModelDir("") { std::filesystem::remove(path_ / "tokenizer.json"); }
  ~ModelDir() { std::filesystem::remove_all(path_); }
  ModelDir(const ModelDir&) = delete;
  ModelDir& operator=(const ModelDir&) = delete;

  void write(const std::string& name, std::string_view text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline absl::StatusOr<std::unique_ptr<Tokenizer>> load(std::string_view tokenizer_json) {
  return Tokenizer::load(ModelDir(tokenizer_json).path());
}

// Same steps as Fuzz in make_fixtures.py.
class Fuzz {
 public:
  Fuzz(const nlohmann::json& table, uint64_t seed)
      : table_(table), state_(mix((seed + 1) * 0xD1342543DE82EF95ull)) {}

  uint64_t below(uint64_t n) { return mix(state_ += 0x9E3779B97F4A7C15ull) % n; }

  std::string string() {
    std::string out;
    for (uint64_t parts = 1 + below(10); parts > 0; --parts) out += part();
    return out;
  }

 private:
  static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
  }
  const nlohmann::json& pick(const char* name) {
    const nlohmann::json& list = table_[name];
    return list[below(list.size())];
  }
  std::string character() {
    const nlohmann::json& range = pick("ranges");
    const uint32_t low = range[0], high = range[1];
    std::string out;
    append_utf8(out, low + below(high - low + 1));
    return out;
  }

  std::string part() {
    const uint64_t kind = below(20);
    if (kind < 6) return pick("words");
    if (kind < 9) return " " + pick("words").get<std::string>();
    if (kind < 11) return pick("spaces");
    std::string out;
    if (kind == 11) {
      for (uint64_t n = 1 + below(5); n > 0; --n) out += character();
    } else if (kind == 12) {
      const std::string unit =
          below(2) ? pick("spaces").get<std::string>() : std::string(1, "a.-=\n 0*"[below(8)]);
      for (uint64_t n = 1 + below(60); n > 0; --n) out += unit;
    } else if (kind == 13) {
      const uint64_t code = below(0x110000 - 0x800);
      append_utf8(out, code < 0xD800 ? code : code + 0x800);
    } else if (kind == 14) {
      for (uint64_t n = 1 + below(4); n > 0; --n) out.push_back(static_cast<char>(below(256)));
    } else if (kind == 15) {
      out = pick("specials");
    } else if (kind == 16) {
      out = character();
      for (uint64_t n = below(6); n > 0; --n) append_utf8(out, pick("marks").get<uint32_t>());
    } else if (kind == 17) {
      uint64_t limit = 1;
      for (uint64_t n = 1 + below(12); n > 0; --n) limit *= 10;
      out = std::to_string(below(limit));
    } else if (kind == 18) {
      for (uint64_t n = 1 + below(8); n > 0; --n) out.push_back(static_cast<char>(33 + below(94)));
    } else {
      out = pick("words");
      out.resize(below(out.size() + 1));
    }
    return out;
  }

  const nlohmann::json& table_;
  uint64_t state_;
};

}  // namespace sluice::golden
