#include <nlohmann/json.hpp>

#include "text/jinja/limits.h"
#include "text/jinja/program.h"
#include "text/jinja/value.h"

namespace sluice::jinja {
namespace {

// Builds values straight from the parser's events: no JSON tree between, no recursion, and no
// quadratic key search on objects with very many keys.
class Builder final : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() override { return put(Value()); }
  bool boolean(bool b) override { return put(Value(b)); }
  bool number_integer(number_integer_t n) override { return put(Value(static_cast<int64_t>(n))); }
  bool number_unsigned(number_unsigned_t n) override {
    if (n <= static_cast<number_unsigned_t>(INT64_MAX)) return put(Value(static_cast<int64_t>(n)));
    return put_big(std::to_string(n));
  }
  bool number_float(number_float_t d, const string_t& text) override {
    // Integers too long for 64 bits come here too.
    if (text.find_first_of(".eE") == std::string::npos) return put_big(text);
    return put(Value(d));
  }
  bool string(string_t& s) override { return put(make_string(std::move(s))); }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return open(std::make_shared<DictObject>()); }
  bool start_array(size_t) override { return open(std::make_shared<ListObject>()); }
  bool key(string_t& s) override {
    keys_.back() = make_string(std::move(s));
    return true;
  }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    error = "malformed JSON at byte " + std::to_string(position);
    return false;
  }

  Value result;
  std::string error;

 private:
  bool put_big(std::string digits) { return put(make_big_int(std::move(digits))); }

  template <class T>
  bool open(std::shared_ptr<T> container) {
    if (open_.size() >= kMaxNesting - 50) {  // templates wrap what they are given
      error = "JSON nested deeper than " + std::to_string(kMaxNesting - 50);
      return false;
    }
    open_.emplace_back(std::move(container));
    keys_.emplace_back();
    return true;
  }

  bool close() {
    Value done = std::move(open_.back());
    open_.pop_back();
    keys_.pop_back();
    return put(std::move(done));
  }

  bool put(Value v) {
    if (open_.empty()) {
      result = std::move(v);
    } else if (open_.back().is_list()) {
      static_cast<ListObject*>(open_.back().object().get())->add(std::move(v));
    } else {
      static_cast<DictObject*>(open_.back().object().get())->set(keys_.back(), std::move(v));
    }
    return true;
  }

  std::vector<Value> open_;
  std::vector<Value> keys_;  // of each open container: the key its next value is for
};

}  // namespace

absl::StatusOr<Value> parse_json(std::string_view text, std::string_view what) {
  Builder builder;
  try {
    if (nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) return builder.result;
  } catch (const Error& error) {
    builder.error = error.message;
  }
  return invalid_argument("{}: {}", what, builder.error);
}

}  // namespace sluice::jinja
