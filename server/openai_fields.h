#pragma once

#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/api_error.h"
#include "server/api_types.h"

// For the openai_*.cc files only: this header brings in the JSON library.
namespace sluice {

// The library's map that keeps the order of insertion, and finds keys in constant time: a client's
// object may have many, and theirs is linear. Names what nlohmann::basic_json calls; the rest of
// the base is not to be used to change it.
template <class Key, class T, class Less, class Allocator>
struct IndexedMap : nlohmann::ordered_map<Key, T, Less, Allocator> {
  using Base = nlohmann::ordered_map<Key, T, Less, Allocator>;
  using Base::Base;
  using typename Base::const_iterator;
  using typename Base::iterator;
  using typename Base::size_type;

  IndexedMap() = default;
  IndexedMap(const IndexedMap& other) : Base(other) {}
  IndexedMap(IndexedMap&& other) noexcept
      : Base(std::move(other)), index_(std::move(other.index_)) {}
  IndexedMap& operator=(const IndexedMap& other) {
    Base::operator=(other);
    index_.clear();
    return *this;
  }
  IndexedMap& operator=(IndexedMap&& other) noexcept {
    Base::operator=(std::move(other));
    index_ = std::move(other.index_);
    return *this;
  }

  iterator find(const Key& key) { return this->begin() + place(key); }
  const_iterator find(const Key& key) const { return this->begin() + place(key); }
  size_type count(const Key& key) const { return find(key) != this->end(); }

  std::pair<iterator, bool> emplace(const Key& key, T&& value) {
    const auto at = place(key);
    const bool is_new = at == std::ssize(*this);
    if (is_new) {
      this->emplace_back(key, std::move(value));
      if (!index_.empty()) index_.emplace(key, at);
    }
    return {this->begin() + at, is_new};
  }
  T& operator[](const Key& key) { return emplace(key, T{}).first->second; }
  const T& operator[](const Key& key) const { return at(key); }
  T& at(const Key& key) { return const_cast<T&>(std::as_const(*this).at(key)); }
  const T& at(const Key& key) const {
    const auto it = find(key);
    if (it == this->end()) throw std::out_of_range("key not found");
    return it->second;
  }

  size_type erase(const Key& key) {
    index_.clear();
    return Base::erase(key);
  }
  iterator erase(iterator it) {
    index_.clear();
    return Base::erase(it);
  }
  iterator erase(iterator first, iterator last) {
    index_.clear();
    return Base::erase(first, last);
  }
  void clear() {
    index_.clear();
    Base::clear();
  }

 private:
  static constexpr std::ptrdiff_t kIndexFrom = 16;

  std::ptrdiff_t place(const Key& key) const {
    const std::ptrdiff_t size = std::ssize(*this);
    if (size < kIndexFrom) {
      std::ptrdiff_t i = 0;
      while (i < size && (this->begin() + i)->first != key) ++i;
      return i;
    }
    if (index_.empty())
      for (std::ptrdiff_t i = 0; i < size; ++i) index_.emplace((this->begin() + i)->first, i);
    const auto at = index_.find(key);
    return at == index_.end() ? size : at->second;
  }

  // Of every key once there are many; empty after a change that moves them.
  mutable absl::flat_hash_map<Key, std::ptrdiff_t> index_;
};

// Keeps the order of keys: a template prints objects as the client wrote them.
using Json = nlohmann::basic_json<IndexedMap>;

MaybeError parse_json_object(std::string_view body, Json* out);
// "an object", "the string \"x\"", ...: what a value is, for error messages; short.
std::string quote_value(const Json& value);

// Reads typed fields of one JSON object. The first error is kept and ends the reading; a null is an
// absent field. Remembers which names were asked for, so that the others can be reported.
class Fields {
 public:
  // `path`: in front of names in errors, "stream_options." or nothing.
  Fields(const Json& object, std::string path) : object_(object), path_(std::move(path)) {}

  const Json* find(const char* name);      // null when absent or null
  bool read(const char* name, bool* out);  // all: true when present and right
  bool read(const char* name, std::optional<bool>* out);
  bool read(const char* name, std::optional<double>* out);
  bool read(const char* name, std::optional<int64_t>* out);
  bool read(const char* name, std::string* out);
  bool read(const char* name, std::vector<int64_t>* out);
  bool read(const char* name, std::vector<std::string>* out);  // a string counts as a list of one

  // A known field that cannot be honoured: an error unless it is null, false, empty or `harmless`.
  void refuse(const char* name, const Json& harmless = nullptr);
  void ignore(const char* name) { find(name); }

  void fail(ErrorKind kind, std::string_view name, std::string message);
  bool failed() const { return error_.has_value(); }
  const MaybeError& error() const { return error_; }
  void collect_unknown(std::vector<std::string>* out) const;
  std::string name_of(std::string_view name) const { return path_ + std::string(name); }

 private:
  void wrong_type(const char* name, const char* wanted, const Json& value);

  const Json& object_;
  const std::string path_;
  std::set<std::string, std::less<>> known_;
  MaybeError error_;
};

// The fields that chat and completions have in common.
void read_common_fields(Fields&, ApiRequest*);
std::optional<int64_t> to_integer(const Json& value);

}  // namespace sluice
