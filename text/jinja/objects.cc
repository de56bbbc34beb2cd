#include "text/jinja/objects.h"

#include <ctime>

#include "text/jinja/operators.h"

namespace sluice::jinja {
namespace {

using Flavor = ListObject::Flavor;

struct Entry {
  std::string_view name;
  Function::Fn fn;
};

Value make_function(const Entry& entry, const Value& self = {}) {
  return Value(std::static_pointer_cast<SpecialObject>(
      std::make_shared<Function>(entry.name.data(), entry.fn, self)));
}

template <size_t n>
std::optional<Value> find_in(const Entry (&entries)[n], std::string_view name, const Value& self) {
  for (const Entry& entry : entries)
    if (entry.name == name) return make_function(entry, self);
  return std::nullopt;
}

// --- dict ---

Value dict_view(Runtime& rt, const Value& self, Flavor flavor) {
  std::vector<Value> out;
  out.reserve(self.dict().entries.size());
  for (const auto& [key, value] : self.dict().entries) {
    if (flavor == Flavor::items) {
      out.push_back(rt.list({key, value}, Flavor::tuple));
    } else {
      out.push_back(flavor == Flavor::keys ? key : value);
    }
  }
  return rt.list(std::move(out), flavor);
}

Value dict_items(Runtime& rt, const Value& self, Args& args) {
  bind("items", args, {});
  return dict_view(rt, self, Flavor::items);
}
Value dict_keys(Runtime& rt, const Value& self, Args& args) {
  bind("keys", args, {});
  return dict_view(rt, self, Flavor::keys);
}
Value dict_values(Runtime& rt, const Value& self, Args& args) {
  bind("values", args, {});
  return dict_view(rt, self, Flavor::values);
}
Value dict_get(Runtime&, const Value& self, Args& args) {
  const auto arg = bind("get", args, {"key", "default"}, 1);
  if (const Value* found = self.dict().find(*arg[0])) return *found;
  return arg[1] ? *arg[1] : Value();
}
Value same(Runtime&, const Value& self, Args& args) {
  bind("copy", args, {});
  return self;  // immutable: a copy cannot be told apart
}

// --- list ---

Value list_index(Runtime& rt, const Value& self, Args& args) {
  const auto arg = bind("index", args, {"value"}, 1);
  const auto& items = self.list().items;
  for (size_t i = 0; i < items.size(); ++i)
    if (equals(rt, items[i], *arg[0])) return Value(static_cast<int64_t>(i));
  fail("{} is not in list", repr(rt, *arg[0]).substr(0, 100));
}
Value list_count(Runtime& rt, const Value& self, Args& args) {
  const auto arg = bind("count", args, {"value"}, 1);
  int64_t n = 0;
  for (const Value& v : self.list().items) n += equals(rt, v, *arg[0]);
  return Value(n);
}

constexpr Entry dict_methods[] = {{"items", dict_items},
                                  {"keys", dict_keys},
                                  {"values", dict_values},
                                  {"get", dict_get},
                                  {"copy", same}};
constexpr Entry list_methods[] = {{"index", list_index}, {"count", list_count}, {"copy", same}};
constexpr std::string_view dict_mutators[] = {"clear", "pop", "popitem", "setdefault", "update"};
constexpr std::string_view list_mutators[] = {"append", "clear", "pop",    "reverse",
                                              "insert", "sort",  "extend", "remove"};

template <size_t n>
std::optional<Value> refused(const std::string_view (&names)[n], const Value& subject,
                             std::string_view name) {
  for (std::string_view mutator : names)
    if (name == mutator)
      return make_undefined(fmt::format("access to attribute '{}' of '{}' object is unsafe.", name,
                                        type_name(subject)));
  return std::nullopt;
}

// --- loop, cycler, joiner ---

Value loop_cycle(Runtime&, const Value& self, Args& args) {
  auto* loop = self.as<LoopObject>();
  if (args.positional.empty()) fail("no items for cycling given");
  return args.positional[static_cast<size_t>(loop->index0) % args.positional.size()];
}

Value loop_changed(Runtime& rt, const Value& self, Args& args) {
  auto* loop = self.as<LoopObject>();
  Value now = rt.list(args.positional, Flavor::tuple);
  const bool changed = !loop->last_changed || !equals(rt, *loop->last_changed, now);
  loop->last_changed = std::move(now);
  return Value(changed);
}

std::optional<Value> loop_attribute(LoopObject& loop, const Value& self, std::string_view name) {
  if (name == "index") return Value(loop.index0 + 1);
  if (name == "index0") return Value(loop.index0);
  if (name == "first") return Value(loop.index0 == 0);
  if (name == "last") return Value(loop.peek() == nullptr);
  if (name == "length") return Value(loop.length());
  if (name == "revindex") return Value(loop.length() - loop.index0);
  if (name == "revindex0") return Value(loop.length() - loop.index0 - 1);
  if (name == "depth") return Value(loop.level);
  if (name == "depth0") return Value(loop.level - 1);
  if (name == "previtem")
    return loop.before ? *loop.before : make_undefined("there is no previous item");
  if (name == "nextitem") {
    const Value* next = loop.peek();
    return next != nullptr ? *next : make_undefined("there is no next item");
  }
  static constexpr Entry methods[] = {{"cycle", loop_cycle}, {"changed", loop_changed}};
  return find_in(methods, name, self);
}

Value cycler_next(Runtime&, const Value& self, Args& args) {
  bind("next", args, {});
  auto* cycler = self.as<Cycler>();
  const Value v = cycler->items[cycler->pos];
  cycler->pos = (cycler->pos + 1) % cycler->items.size();
  return v;
}
Value cycler_reset(Runtime&, const Value& self, Args& args) {
  bind("reset", args, {});
  self.as<Cycler>()->pos = 0;
  return {};
}

// --- functions ---

Value raise_exception(Runtime& rt, const Value&, Args& args) {
  const auto arg = bind("raise_exception", args, {"message"}, 1);
  fail("{}", to_str(rt, *arg[0]));
}

Value strftime_now(Runtime& rt, const Value&, Args& args) {
  const auto arg = bind("strftime_now", args, {"format"}, 1);
  if (!arg[0]->is_string()) fail("strftime_now() needs a string");
  const std::string& format = arg[0]->text();
  if (format.empty()) return rt.string("");
  if (format.size() > 256) fail("strftime_now(): format longer than 256 bytes");
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::string out(4096, '\0');
  out.resize(std::strftime(out.data(), out.size(), format.c_str(), &local));
  return rt.string(std::move(out));
}

Value range(Runtime& rt, const Value&, Args& args) {
  const auto arg = bind("range", args, {"start", "stop", "step"}, 1);
  int64_t start = 0;
  int64_t stop = to_index(*arg[0], "range()");
  if (arg[1]) {
    start = stop;
    stop = to_index(*arg[1], "range()");
  }
  const int64_t step = arg[2] ? to_index(*arg[2], "range()") : 1;
  if (step == 0) fail("range() arg 3 must not be zero");
  constexpr int64_t kMaxRange = 100'000;  // as Jinja2's sandbox
  const __int128 span =
      step > 0 ? static_cast<__int128>(stop) - start : static_cast<__int128>(start) - stop;
  const __int128 stride = step > 0 ? step : -static_cast<__int128>(step);
  const __int128 count = span > 0 ? (span + stride - 1) / stride : 0;
  if (count > kMaxRange) fail("range too big: the limit is {} items", kMaxRange);
  std::vector<Value> items;
  items.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) items.push_back(Value(start + i * step));
  Value v = rt.list(std::move(items), Flavor::range);
  v.list_ptr()->range = {start, stop, step};
  return v;
}

void fill(Runtime& rt, DictObject& out, Args& args, const char* name) {
  if (args.positional.size() > 1) fail("{}() takes one positional argument", name);
  if (!args.positional.empty()) {
    const Value& from = args.positional[0];
    if (from.is_undefined()) fail_undefined(from);
    if (from.is_dict()) {
      for (const auto& [key, value] : from.dict().entries) out.set(key, value);
      rt.step(static_cast<int64_t>(out.entries.size()));
    } else {
      const auto list = iterate(rt, from);
      for (const Value& item : list->items) {
        const auto pair = iterate(rt, item);
        if (pair->items.size() != 2) fail("{}() needs pairs", name);
        rt.step();
        out.set(pair->items[0], pair->items[1]);
      }
    }
  }
  for (const auto& [key, value] : args.keyword) out.set(rt.string(key), value);
}

Value make_namespace(Runtime& rt, const Value&, Args& args) {
  auto ns = std::make_shared<Namespace>();
  Value v = rt.keep(ns);
  fill(rt, ns->attributes, args, "namespace");
  for (const auto& [name, value] : ns->attributes.entries)
    if (name.is_string()) check_namespace_name(name.text());
  return v;
}

Value make_dict(Runtime& rt, const Value&, Args& args) {
  auto dict = std::make_shared<DictObject>();
  fill(rt, *dict, args, "dict");
  return rt.dict(std::move(dict));
}

Value make_cycler(Runtime& rt, const Value&, Args& args) {
  auto cycler = std::make_shared<Cycler>();
  if (args.positional.empty()) fail("at least one item has to be provided");
  for (const Value& v : args.positional) cycler->depth = std::max(cycler->depth, v.depth() + 1);
  cycler->items = args.positional;
  return rt.keep(cycler);
}

Value make_joiner(Runtime& rt, const Value&, Args& args) {
  const auto arg = bind("joiner", args, {"sep"});
  auto joiner = std::make_shared<Joiner>();
  joiner->separator = arg[0] ? *arg[0] : rt.string(", ");
  return rt.keep(joiner);
}

Value dict_fromkeys(Runtime& rt, const Value&, Args& args) {
  const auto arg = bind("fromkeys", args, {"iterable", "value"}, 1);
  auto dict = std::make_shared<DictObject>();
  const auto keys = iterate(rt, *arg[0]);
  for (const Value& key : keys->items) {
    rt.step();
    dict->set(key, arg[1] ? *arg[1] : Value());
  }
  return rt.dict(std::move(dict));
}

constexpr Entry functions[] = {
    {"raise_exception", raise_exception},
    {"strftime_now", strftime_now},
    {"range", range},
    {"namespace", make_namespace},
    {"dict", make_dict},
    {"cycler", make_cycler},
    {"joiner", make_joiner},
};

}  // namespace

void check_namespace_name(std::string_view name) {
  if (name.starts_with('_'))
    fail("names in a namespace must not begin with an underscore, as '{}' does", name);
}

std::string Namespace::repr(Runtime& rt) const {
  std::string out = "<Namespace {";
  for (size_t i = 0; i < attributes.entries.size(); ++i) {
    if (i > 0) out += ", ";
    out += jinja::repr(rt, attributes.entries[i].first);
    out += ": ";
    out += jinja::repr(rt, attributes.entries[i].second);
    rt.check_string(out.size());
  }
  return out + "}>";
}

std::string LoopObject::repr(Runtime&) const {
  auto* self = const_cast<LoopObject*>(this);
  return fmt::format("<LoopContext {}/{}>", index0 + 1, self->length());
}

void LoopObject::cut() {
  close();
  ahead.clear();
  before.reset();
  current.reset();
  last_changed.reset();
  outside.reset();
}

const Value* LoopObject::peek() {
  if (ahead.empty() && pull)
    if (auto next = pull()) ahead.push_back(std::move(*next));
  return ahead.empty() ? nullptr : &ahead.back();
}

bool LoopObject::advance() {
  if (peek() == nullptr) return false;
  before = std::move(current);
  current = std::move(ahead.back());
  ahead.pop_back();
  ++index0;
  return true;
}

int64_t LoopObject::length() {
  if (known_length) return *known_length;
  std::vector<Value> rest;
  while (pull) {
    auto next = pull();
    if (!next) break;
    rest.push_back(std::move(*next));
  }
  // `ahead` has its nearest item last.
  std::vector<Value> all(rest.rbegin(), rest.rend());
  all.insert(all.end(), ahead.begin(), ahead.end());
  ahead = std::move(all);
  known_length = index0 + 1 + static_cast<int64_t>(ahead.size());
  return *known_length;
}

std::optional<Value> object_attribute(Runtime& rt, const Value& object, std::string_view name) {
  if (auto* ns = object.as<Namespace>()) {
    if (const Value* found = ns->attributes.find(name)) return *found;
    return std::nullopt;
  }
  if (auto* loop = object.as<LoopObject>()) return loop_attribute(*loop, object, name);
  if (auto* cycler = object.as<Cycler>()) {
    if (name == "current") return cycler->items[cycler->pos];
    static constexpr Entry methods[] = {{"next", cycler_next}, {"reset", cycler_reset}};
    return find_in(methods, name, object);
  }
  if (auto* function = object.as<Function>()) {
    if (function->fn == make_dict && name == "fromkeys")
      return make_function({"fromkeys", dict_fromkeys});
  }
  if (auto* macro = object.as<Macro>()) {
    if (name == "name") return make_string(macro->def.name);
    if (name == "catch_kwargs") return Value(macro->def.uses_kwargs);
    if (name == "catch_varargs") return Value(macro->def.uses_varargs);
    if (name == "caller") return Value(macro->def.uses_caller);
    if (name == "arguments") {
      std::vector<Value> names;
      for (const Parameter& p : macro->def.parameters) names.push_back(rt.string(p.name));
      return rt.list(std::move(names), Flavor::tuple);
    }
  }
  return std::nullopt;
}

std::optional<Value> data_method(Runtime&, const Value& subject, std::string_view name) {
  if (subject.is_string()) {
    const char* stable_name = nullptr;
    if (const auto fn = string_method(name, &stable_name))
      return make_function({stable_name, fn}, subject);
    return std::nullopt;
  }
  if (subject.is_dict()) {
    if (auto method = find_in(dict_methods, name, subject)) return method;
    return refused(dict_mutators, subject, name);
  }
  if (subject.is_list() && subject.list().group) {
    if (name == "grouper") return subject.list().items[0];
    if (name == "list") return subject.list().items[1];
  }
  if (subject.is_list() && subject.list().indexable()) {
    const bool is_list = subject.list().flavor == Flavor::list;
    if (name == "copy" && !is_list) return std::nullopt;
    if (auto method = find_in(list_methods, name, subject)) return method;
    if (is_list) return refused(list_mutators, subject, name);
  }
  return std::nullopt;
}

std::optional<Value> global_function(std::string_view name) {
  return find_in(functions, name, Value());
}

}  // namespace sluice::jinja
