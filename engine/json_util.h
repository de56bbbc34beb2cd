#pragma once

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/text.h"
#include "base/types.h"

// For .cc files only: parsing is heavy to compile. Files of a model directory are input like any
// other, so size, nesting and repeated keys are bounded here, once.
namespace sluice {

using Json = nlohmann::json;

// The whole of a regular file, at most max_bytes. Messages name the file without its folder.
absl::StatusOr<std::string> read_text_file(const std::filesystem::path&, size_t max_bytes);

// One JSON value that is an object. `what` opens every message. Refused beside bad syntax: nesting
// deeper than 32 and a key that occurs twice in one object (which of the two counts is anybody's
// guess).
absl::StatusOr<Json> parse_json_object(std::string_view text, std::string_view what);

// "4096", "a string", "null": what was found, short enough for one line.
std::string describe(const Json&);

// A name from a file as part of a line.
std::string short_name(std::string_view name);

// Takes keys of one JSON object by name. Complaints are kept and the reading goes on with defaults,
// so that callers read straight down and look at the end. Null counts as absent: Hugging Face
// writes both.
class KeyReader {
 public:
  KeyReader(const Json& json, std::string place) : json_(json), place_(std::move(place)) {}

  const Json* find(std::string_view key) {
    used_.emplace(key);
    const auto it = json_.find(std::string(key));
    return it == json_.end() || it->is_null() ? nullptr : &*it;
  }
  bool contains(const std::string& key) const { return json_.contains(key); }
  int integer(std::string_view key, int64_t low, int64_t high, std::optional<int> fallback) {
    const Json* value = find(key);
    if (!value) return absent(key, fallback);
    if (!value->is_number_integer() || *value < low || *value > high) {
      fail("\"{}\" is {}, expected an integer from {} to {}", key, describe(*value), low, high);
      guessed_ = true;
      return static_cast<int>(low);
    }
    return value->get<int>();
  }
  // In (low, high], or [low, high] if `closed`.
  double number(std::string_view key, double low, double high, std::optional<double> fallback,
                bool closed = false) {
    const Json* value = find(key);
    if (!value) return absent(key, fallback);
    const double x = value->is_number() ? value->get<double>() : std::nan("");
    if (!(x <= high && (closed ? x >= low : x > low))) {
      fail("\"{}\" is {}, expected a number {} {} and at most {}", key, describe(*value),
           closed ? "from" : "above", low, high);
      return high;
    }
    return x;
  }
  bool boolean(std::string_view key, bool fallback) {
    const Json* value = find(key);
    if (!value) return fallback;
    if (!value->is_boolean()) {
      fail("\"{}\" is {}, expected true or false", key, describe(*value));
      guessed_ = true;
      return fallback;
    }
    return value->get<bool>();
  }
  std::optional<std::string> text(std::string_view key) {
    const Json* value = find(key);
    if (!value) return {};
    if (!value->is_string()) {
      fail("\"{}\" is {}, expected a string", key, describe(*value));
      return {};
    }
    return value->get<std::string>();
  }
  // An id or a list of ids.
  std::vector<TokenId> ids(std::string_view key, int vocab_size) {
    const Json* value = find(key);
    std::vector<TokenId> result;
    if (!value) return result;
    const Json list = value->is_array() ? *value : Json::array({*value});
    for (const Json& id : list) {
      if (!id.is_number_integer() || id < 0 || id >= vocab_size) {
        fail("\"{}\" has {}, expected token ids from 0 to {}", key, describe(id), vocab_size - 1);
        return result;
      }
      result.push_back(id.get<TokenId>());
    }
    return result;
  }
  // A key that must be absent or have the one value that changes nothing.
  void only(std::string_view key, const Json& neutral) {
    const Json* value = find(key);
    if (value && *value != neutral)
      fail("\"{}\" is {}, only {} is supported", key, describe(*value), neutral.dump());
  }
  bool has_read(std::string_view key) const { return used_.contains(key); }
  // Keys whose value has no meaning here.
  void inert(std::span<const std::string_view> keys) { used_.insert(keys.begin(), keys.end()); }

  std::string unused() const {
    std::string names;
    for (const auto& [key, value] : json_.items()) {
      if (used_.contains(key)) continue;
      if (names.size() > 400) return names + ", ...";
      if (!names.empty()) names += ", ";
      names += short_name(key);
    }
    return names;
  }
  template <class... Args>
  void fail(fmt::format_string<Args...> format, Args&&... args) {
    const std::string text = fmt::format(format, std::forward<Args>(args)...);
    add(invalid_argument("{}: {}", place_, one_line(text)));
  }
  // Of values that are good alone and not together: nothing is said where one of them is a guess.
  template <class... Args>
  void conflict(fmt::format_string<Args...> format, Args&&... args) {
    if (!std::exchange(guessed_, true)) fail(format, std::forward<Args>(args)...);
  }
  void add(absl::Status complaint) {
    const bool again = !complaints_.empty() && complaints_.back() == complaint;
    if (!complaint.ok() && !again) complaints_.push_back(std::move(complaint));
  }
  const std::vector<absl::Status>& complaints() const { return complaints_; }
  absl::Status status() const {
    return complaints_.empty() ? absl::OkStatus() : complaints_.front();
  }
  void guess() { guessed_ = true; }
  // A size or a switch could not be read, and something else stands in for it.
  bool guessed() const { return guessed_; }
  // Makes the complaints of a reader of an object inside this one its own; not its guesses.
  void adopt(const KeyReader& inner) {
    complaints_.insert(complaints_.end(), inner.complaints_.begin(), inner.complaints_.end());
  }
  const std::string& place() const { return place_; }

 private:
  template <class T>
  T absent(std::string_view key, const std::optional<T>& fallback) {
    if (!fallback) {
      fail("\"{}\" is missing", key);
      guessed_ = true;
    }
    return fallback.value_or(T{1});
  }

  const Json& json_;
  const std::string place_;
  std::set<std::string, std::less<>> used_;
  std::vector<absl::Status> complaints_;
  bool guessed_ = false;
};

}  // namespace sluice
