#include "text/jinja/value.h"

#include <cmath>
#include <cstring>

#include "text/jinja/limits.h"

namespace sluice::jinja {
namespace {

constexpr size_t kIndexFrom = 12;  // entries from which a hash index pays

int nest(int depth, const Value& v) {
  const int with = v.depth() + 1;
  if (with > kMaxNesting) fail("values nested deeper than {}", kMaxNesting);
  return with > depth ? with : depth;
}

void append_integer(std::string& out, int64_t n) {
  out += 'i';
  out += std::to_string(n);
  out += ';';
}

// The length keeps tuples of strings apart.
std::string string_hash_key(std::string_view text) {
  std::string out = std::to_string(text.size());
  out.insert(out.begin(), 's');
  out += ':';
  out += text;
  return out;
}

void append_hash_key(std::string& out, const Value& v) {
  switch (v.kind()) {
    case Kind::string:
      out += string_hash_key(v.text());
      return;
    case Kind::none:
      out += 'n';
      return;
    case Kind::undefined:
      out += 'u';
      return;
    case Kind::real: {
      const double d = v.real();
      if (std::floor(d) != d || std::fabs(d) >= 9.2e18) {
        char bytes[sizeof d];
        std::memcpy(bytes, &d, sizeof d);
        out += 'd';
        out.append(bytes, sizeof d);
        return;
      }
      append_integer(out, static_cast<int64_t>(d));
      return;
    }
    case Kind::boolean:
    case Kind::integer:
      append_integer(out, v.integer());
      return;
    case Kind::list:
      if (v.list().flavor == ListObject::Flavor::tuple) {
        out += '(';
        for (const Value& item : v.list().items) append_hash_key(out, item);
        out += ')';
        if (out.size() > (1 << 20)) fail("key too long");
        return;
      }
      if (v.list().flavor == ListObject::Flavor::range) {
        out += 'r';
        append_integer(out, v.list().range.start);
        append_integer(out, v.list().range.stop);
        append_integer(out, v.list().range.step);
        return;
      }
      break;
    case Kind::object:
      if (const auto* big = v.as<BigInt>()) {
        out += 'i' + big->digits + ';';
        return;
      }
      out += 'o';
      append_integer(out, static_cast<int64_t>(reinterpret_cast<intptr_t>(v.object().get())));
      return;
    default:
      break;
  }
  fail("unhashable type: '{}'", type_name(v));
}

}  // namespace

Value::Value(std::shared_ptr<StrObject> o) : kind_(Kind::string), object_(std::move(o)) {}
Value::Value(std::shared_ptr<ListObject> o) : kind_(Kind::list), object_(std::move(o)) {}
Value::Value(std::shared_ptr<DictObject> o) : kind_(Kind::dict), object_(std::move(o)) {}
Value::Value(std::shared_ptr<SpecialObject> o) : kind_(Kind::object), object_(std::move(o)) {}
Value::Value(std::shared_ptr<Undefined> o) : kind_(Kind::undefined), object_(std::move(o)) {}

const std::string& Value::text() const { return static_cast<StrObject*>(object_.get())->text; }
bool Value::safe() const {
  return kind_ == Kind::string && static_cast<StrObject*>(object_.get())->safe;
}
const ListObject& Value::list() const { return *static_cast<ListObject*>(object_.get()); }
const DictObject& Value::dict() const { return *static_cast<DictObject*>(object_.get()); }
const Undefined& Value::undefined() const { return *static_cast<Undefined*>(object_.get()); }
std::shared_ptr<ListObject> Value::list_ptr() const {
  return std::static_pointer_cast<ListObject>(object_);
}

void ListObject::add(Value v) {
  depth = nest(depth, v);
  items.push_back(std::move(v));
}

void DictObject::set(const Value& key, Value v) {
  depth = nest(nest(depth, v), key);
  if (entries.size() < kIndexFrom) {
    if (const Value* old = find(key)) {
      *const_cast<Value*>(old) = std::move(v);
      return;
    }
    entries.emplace_back(key, std::move(v));
    return;
  }
  if (index_.empty())
    for (size_t i = 0; i < entries.size(); ++i)
      index_.emplace(hash_key(entries[i].first), static_cast<uint32_t>(i));
  const auto [at, is_new] =
      index_.try_emplace(hash_key(key), static_cast<uint32_t>(entries.size()));
  if (is_new) {
    entries.emplace_back(key, std::move(v));
  } else {
    entries[at->second].second = std::move(v);
  }
}

const Value* DictObject::lookup(const std::string& wanted) const {
  if (!index_.empty()) {
    const auto at = index_.find(wanted);
    return at == index_.end() ? nullptr : &entries[at->second].second;
  }
  for (const auto& [key, value] : entries)
    if (hash_key(key) == wanted) return &value;
  return nullptr;
}

const Value* DictObject::find(const Value& key) const {
  if (key.is_string()) return find(std::string_view(key.text()));
  return lookup(hash_key(key));
}

const Value* DictObject::find(std::string_view key) const {
  if (!index_.empty()) return lookup(string_hash_key(key));
  for (const auto& [k, value] : entries)
    if (k.is_string() && k.text() == key) return &value;
  return nullptr;
}

Value make_string(std::string text, bool safe) {
  return Value(std::make_shared<StrObject>(std::move(text), safe));
}

Value make_big_int(std::string digits) {
  return Value(
      std::static_pointer_cast<SpecialObject>(std::make_shared<BigInt>(std::move(digits))));
}

Value make_undefined(std::string message) {
  return Value(std::make_shared<Undefined>(std::move(message)));
}

std::string hash_key(const Value& v) {
  std::string out;
  append_hash_key(out, v);
  return out;
}

const char* type_name(const Value& v) {
  switch (v.kind()) {
    case Kind::undefined:
      return "Undefined";
    case Kind::none:
      return "NoneType";
    case Kind::boolean:
      return "bool";
    case Kind::integer:
      return "int";
    case Kind::real:
      return "float";
    case Kind::string:
      return v.safe() ? "Markup" : "str";
    case Kind::list:
      switch (v.list().flavor) {
        case ListObject::Flavor::list:
          return "list";
        case ListObject::Flavor::tuple:
          return "tuple";
        case ListObject::Flavor::range:
          return "range";
        case ListObject::Flavor::generator:
          return "generator";
        case ListObject::Flavor::keys:
          return "dict_keys";
        case ListObject::Flavor::values:
          return "dict_values";
        case ListObject::Flavor::items:
          return "dict_items";
      }
      return "list";
    case Kind::dict:
      return "dict";
    case Kind::object:
      return static_cast<SpecialObject*>(v.object().get())->type_name();
  }
  return "?";
}

}  // namespace sluice::jinja
