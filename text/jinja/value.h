#pragma once

#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/error.h"

namespace sluice::jinja {

class Runtime;

enum class Kind : uint8_t { undefined, none, boolean, integer, real, string, list, dict, object };

// Anything too big for the inside of a Value. `depth` is one more than the deepest thing it holds
// and bounded (kMaxNesting), so that recursion over values, destruction too, has an end. Values
// cannot form cycles but through namespaces and macros' scopes, which the Runtime empties.
struct Object {
  virtual ~Object() = default;
  int depth = 0;
};

struct StrObject;
struct ListObject;
struct DictObject;
struct SpecialObject;
struct Undefined;

// A Python value, as templates know them. Small, copied freely; strings and containers are shared
// and immutable once they are visible to a template.
class Value {
 public:
  Value() = default;  // None
  explicit Value(bool b) : kind_(Kind::boolean) { number_.boolean = b; }
  explicit Value(int64_t i) : kind_(Kind::integer) { number_.integer = i; }
  explicit Value(double d) : kind_(Kind::real) { number_.real = d; }
  explicit Value(std::shared_ptr<StrObject>);
  explicit Value(std::shared_ptr<ListObject>);
  explicit Value(std::shared_ptr<DictObject>);
  explicit Value(std::shared_ptr<SpecialObject>);
  explicit Value(std::shared_ptr<Undefined>);

  Kind kind() const { return kind_; }
  bool is_none() const { return kind_ == Kind::none; }
  bool is_undefined() const { return kind_ == Kind::undefined; }
  bool is_string() const { return kind_ == Kind::string; }
  bool is_list() const { return kind_ == Kind::list; }
  bool is_dict() const { return kind_ == Kind::dict; }
  // bool counts as an integer, as in Python.
  bool is_integral() const { return kind_ == Kind::integer || kind_ == Kind::boolean; }
  bool is_number() const { return is_integral() || kind_ == Kind::real; }

  bool boolean() const { return number_.boolean; }
  int64_t integer() const {
    return kind_ == Kind::boolean ? static_cast<int64_t>(number_.boolean) : number_.integer;
  }
  double real() const {
    return kind_ == Kind::real ? number_.real : static_cast<double>(integer());
  }
  const std::string& text() const;  // kind string
  bool safe() const;                // a string that |escape or |safe has marked
  const ListObject& list() const;
  const DictObject& dict() const;
  const Undefined& undefined() const;
  std::shared_ptr<ListObject> list_ptr() const;
  const std::shared_ptr<Object>& object() const { return object_; }
  template <class T>
  T* as() const {  // kind object
    return kind_ == Kind::object ? dynamic_cast<T*>(object_.get()) : nullptr;
  }
  int depth() const { return object_ ? object_->depth : 0; }

 private:
  Kind kind_ = Kind::none;
  union {
    bool boolean;
    int64_t integer;
    double real;
  } number_{.integer = 0};
  std::shared_ptr<Object> object_;
};

struct StrObject final : Object {
  explicit StrObject(std::string t, bool s = false) : text(std::move(t)), safe(s) {}
  std::string text;
  bool safe;
};

// Everything that is a row of values. The flavour is what it is printed as and what it can do.
struct ListObject final : Object {
  enum class Flavor : uint8_t { list, tuple, range, generator, keys, values, items };
  Flavor flavor = Flavor::list;
  bool consumed = false;  // generator: it gives its items once
  std::vector<Value> items;
  struct Range {
    int64_t start = 0, stop = 0, step = 1;
  } range;             // range: what it was made of
  bool group = false;  // tuple: of groupby, its two items have names too

  void add(Value v);  // keeps depth; fails past kMaxNesting
  bool indexable() const { return flavor <= Flavor::range; }
};

// Python's dict: any hashable key, insertion order.
struct DictObject final : Object {
  std::vector<std::pair<Value, Value>> entries;

  void set(const Value& key, Value v);
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;

 private:
  // Past a few entries; built from untrusted keys, so the hash is seeded and the cost linear.
  absl::flat_hash_map<std::string, uint32_t> index_;
  const Value* lookup(const std::string& hash_key) const;
};

struct Undefined final : Object {
  explicit Undefined(std::string m) : message(std::move(m)) {}
  std::string message;  // what to say when it is used: "'x' is undefined"
};

// Macros, functions, namespaces, loop: what is neither data nor undefined.
struct SpecialObject : Object {
  virtual const char* type_name() const = 0;
  virtual std::string repr(Runtime&) const = 0;
};

// An integer that does not fit in 64 bits, from JSON or from the template: compared and printed,
// but not computed with. `digits` has no leading zeros.
struct BigInt final : SpecialObject {
  explicit BigInt(std::string d) : digits(std::move(d)) {}
  const char* type_name() const override { return "int"; }
  std::string repr(Runtime&) const override { return digits; }
  std::string digits;
};

Value make_string(std::string text, bool safe = false);  // not charged: for constants and input
Value make_big_int(std::string digits);
Value make_undefined(std::string message);

// Equal for values that are equal as dict keys. Fails for those Python cannot hash.
std::string hash_key(const Value&);
const char* type_name(const Value&);  // as Python calls it

}  // namespace sluice::jinja
