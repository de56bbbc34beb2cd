// Attributes, items and slices.
#include <algorithm>

#include "text/jinja/objects.h"
#include "text/jinja/operators.h"
#include "text/jinja/utf8.h"

namespace sluice::jinja {
namespace {

using Flavor = ListObject::Flavor;

// "'dict object' has no attribute 'x'", as Jinja2 words it.
Value missing(Runtime& rt, const Value& object, const Value& key) {
  std::string owner = object.is_none() ? "None" : std::string(type_name(object)) + " object";
  if (!key.is_string())
    return make_undefined(fmt::format("{} has no element {}", owner, repr(rt, key).substr(0, 100)));
  return make_undefined(fmt::format("'{}' has no attribute {}", owner,
                                    quoted(std::string_view(key.text()).substr(0, 100))));
}

Value missing(const Value& object, std::string_view name) {
  return make_undefined(
      fmt::format("'{}' has no attribute '{}'",
                  object.is_none() ? "None" : std::string(type_name(object)) + " object", name));
}

// What obj[key] finds, without the fall-back to attributes.
std::optional<Value> subscript(Runtime& rt, const Value& object, const Value& key) {
  if (object.is_dict()) {
    if ((key.is_list() && key.list().flavor != Flavor::tuple) || key.is_dict()) return std::nullopt;
    rt.step(key.is_string() ? static_cast<int64_t>(key.text().size() / 64) : 1);
    const Value* found = object.dict().find(key);
    if (found == nullptr) return std::nullopt;
    return *found;
  }
  if (!key.is_integral()) return std::nullopt;
  int64_t index = key.integer();
  if (object.is_list() && object.list().indexable()) {
    const auto& items = object.list().items;
    if (index < 0) index += static_cast<int64_t>(items.size());
    if (index < 0 || index >= static_cast<int64_t>(items.size())) return std::nullopt;
    return items[static_cast<size_t>(index)];
  }
  if (object.is_string()) {
    const std::string& text = object.text();
    rt.work(text.size());
    if (index < 0) index += static_cast<int64_t>(utf8::length(text));
    if (index < 0) return std::nullopt;
    size_t pos = utf8::offset(text, static_cast<size_t>(index));
    if (pos >= text.size()) return std::nullopt;
    const size_t start = pos;
    utf8::next(text, pos);
    return rt.string(text.substr(start, pos - start), object.safe());
  }
  return std::nullopt;
}

std::optional<Value> attribute(Runtime& rt, const Value& object, std::string_view name) {
  std::optional<Value> found = object.kind() == Kind::object ? object_attribute(rt, object, name)
                                                             : data_method(rt, object, name);
  if (found || !name.starts_with("__")) return found;
  // Every Python object has some of these, and the sandbox hands out none.
  return make_undefined(
      fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, type_name(object)));
}

struct Bounds {
  int64_t start, end, step, count;
};

Bounds resolve(int64_t length, const Value& start, const Value& stop, const Value& step) {
  const auto part = [](const Value& v, int64_t fallback) {
    return v.is_none() ? fallback : to_index(v, "slice indices");
  };
  Bounds b{0, 0, part(step, 1), 0};
  if (b.step == 0) fail("slice step cannot be zero");
  b.step = std::clamp<int64_t>(b.step, -(int64_t{1} << 40), int64_t{1} << 40);
  const bool forward = b.step > 0;
  const auto place = [&](const Value& v, int64_t fallback) {
    if (v.is_none()) return fallback;
    int64_t i = to_index(v, "slice indices");
    if (i < 0) i = i < -length ? (forward ? 0 : -1) : i + length;
    return std::min(i, forward ? length : length - 1);
  };
  b.start = place(start, forward ? 0 : length - 1);
  b.end = place(stop, forward ? length : -1);
  const int64_t span = forward ? b.end - b.start : b.start - b.end;
  const int64_t stride = forward ? b.step : -b.step;
  b.count = span > 0 ? (span + stride - 1) / stride : 0;
  return b;
}

}  // namespace

Value get_attribute(Runtime& rt, const Value& object, std::string_view name) {
  if (object.is_undefined()) fail_undefined(object);
  if (auto found = attribute(rt, object, name)) return *found;
  if (object.is_dict())
    if (const Value* found = object.dict().find(name)) return *found;
  return missing(object, name);
}

Value get_item(Runtime& rt, const Value& object, const Value& key) {
  if (object.is_undefined()) fail_undefined(object);
  if (auto found = subscript(rt, object, key)) return *found;
  if (key.is_string())
    if (auto found = attribute(rt, object, key.text())) return *found;
  return missing(rt, object, key);
}

Value slice(Runtime& rt, const Value& object, const Value& start, const Value& stop,
            const Value& step) {
  if (object.is_undefined()) fail_undefined(object);
  if (object.is_list() && object.list().indexable()) {
    const auto& items = object.list().items;
    const Bounds b = resolve(static_cast<int64_t>(items.size()), start, stop, step);
    std::vector<Value> out;
    out.reserve(static_cast<size_t>(b.count));
    for (int64_t i = 0; i < b.count; ++i)
      out.push_back(items[static_cast<size_t>(b.start + i * b.step)]);
    Value part = rt.list(std::move(out), object.list().flavor);
    if (object.list().flavor == Flavor::range) {
      const auto [first, last, stride] = object.list().range;
      const auto scaled = [stride = stride](int64_t n, int64_t from) {
        return static_cast<int64_t>(
            std::clamp<__int128>(static_cast<__int128>(n) * stride + from, INT64_MIN, INT64_MAX));
      };
      part.list_ptr()->range = {scaled(b.start, first), scaled(b.end, first), scaled(b.step, 0)};
    }
    return part;
  }
  if (!object.is_string()) fail("'{}' object cannot be sliced", type_name(object));
  const std::string& text = object.text();
  rt.work(text.size());
  const Bounds b = resolve(static_cast<int64_t>(utf8::length(text)), start, stop, step);
  if (b.count == 0) return rt.string("", object.safe());
  if (b.step == 1) {
    const size_t from = utf8::offset(text, static_cast<size_t>(b.start));
    const std::string_view rest = std::string_view(text).substr(from);
    return rt.string(std::string(rest.substr(0, utf8::offset(rest, static_cast<size_t>(b.count)))),
                     object.safe());
  }
  rt.work(text.size() * 16);
  const std::u32string characters = utf8::decode(text);
  std::string out;
  for (int64_t i = 0; i < b.count; ++i)
    utf8::append(out, characters[static_cast<size_t>(b.start + i * b.step)]);
  return rt.string(std::move(out), object.safe());
}

}  // namespace sluice::jinja
