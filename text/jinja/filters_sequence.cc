// Filters over rows of values.
#include <absl/container/flat_hash_set.h>

#include <algorithm>

#include "text/jinja/filters.h"
#include "text/jinja/objects.h"
#include "text/jinja/operators.h"
#include "text/jinja/utf8.h"

namespace sluice::jinja {
namespace {

using Flavor = ListObject::Flavor;

// Reads `attribute` arguments: "a.b.0" goes down three times.
class Getter {
 public:
  Getter(Runtime& rt, const std::optional<Value>& attribute, bool fold_case,
         std::optional<Value> fallback = std::nullopt)
      : rt_(rt), fold_case_(fold_case), fallback_(std::move(fallback)) {
    if (!attribute || attribute->is_none()) return;
    if (!attribute->is_string()) {
      path_.push_back(*attribute);
      return;
    }
    const std::string& text = attribute->text();
    for (size_t pos = 0; pos <= text.size();) {
      const size_t dot = std::min(text.find('.', pos), text.size());
      const std::string part = text.substr(pos, dot - pos);
      const bool number = !part.empty() && part.size() < 10 &&
                          part.find_first_not_of("0123456789") == std::string::npos;
      path_.push_back(number ? Value(static_cast<int64_t>(std::stoll(part))) : rt.string(part));
      pos = dot + 1;
    }
  }

  Value operator()(Value item) const {
    rt_.step();
    for (const Value& part : path_) {
      item = get_item(rt_, item, part);
      if (fallback_ && item.is_undefined()) item = *fallback_;
    }
    if (fold_case_ && item.is_string()) {
      rt_.work(item.text().size() * 16);
      return rt_.string(utf8::lower(item.text()));
    }
    return item;
  }

 private:
  Runtime& rt_;
  std::vector<Value> path_;
  bool fold_case_;
  std::optional<Value> fallback_;
};

// Python's sort takes integers and booleans only.
bool descending(const std::optional<Value>& v) { return v && to_index(*v, "sort: reverse") != 0; }

bool flag(const std::optional<Value>& v) { return v && truthy(*v); }

Value length(Runtime& rt, const Value& v, Args& args) {
  bind("length", args, {});
  const auto n = size_of(rt, v);
  if (!n) fail("object of type '{}' has no len()", type_name(v));
  return Value(*n);
}

Value join(Runtime& rt, const Value& v, Args& args) {
  const auto arg = bind("join", args, {"d", "attribute"});
  const std::string separator = arg[0] ? to_str(rt, *arg[0]) : "";
  const Getter get(rt, arg[1], false);
  std::string out;
  bool first = true;
  const auto list = iterate(rt, v);
  for (const Value& item : list->items) {
    if (!first) out += separator;
    first = false;
    rt.work(separator.size());
    out += to_str(rt, get(item));
    rt.check_string(out.size());
  }
  return rt.string(std::move(out));
}

Value first(Runtime& rt, const Value& v, Args& args) {
  bind("first", args, {});
  if (v.is_string() && !v.text().empty()) return get_item(rt, v, Value(int64_t{0}));
  const auto list = iterate(rt, v);
  if (list->items.empty()) return make_undefined("No first item, sequence was empty.");
  return list->items.front();
}

Value last(Runtime& rt, const Value& v, Args& args) {
  bind("last", args, {});
  if (v.is_string() && !v.text().empty()) return get_item(rt, v, Value(int64_t{-1}));
  if (v.is_list() && v.list().flavor == Flavor::generator)
    fail("'generator' object is not reversible");
  const auto list = iterate(rt, v);
  if (list->items.empty()) return make_undefined("No last item, sequence was empty.");
  return list->items.back();
}

Value to_list(Runtime& rt, const Value& v, Args& args) {
  bind("list", args, {});
  const auto list = iterate(rt, v);
  return rt.list(list->items);
}

Value reverse(Runtime& rt, const Value& v, Args& args) {
  bind("reverse", args, {});
  if (v.is_string()) {
    const Value minus_one(int64_t{-1});
    return slice(rt, v, {}, {}, minus_one);
  }
  const auto list = iterate(rt, v);
  return rt.list({list->items.rbegin(), list->items.rend()}, Flavor::generator);
}

using Keyed = std::vector<std::pair<Value, Value>>;  // sort key, item

Value sorted(Runtime& rt, Keyed keyed, bool backwards) {
  rt.step(static_cast<int64_t>(keyed.size()));
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return backwards ? less(rt, b.first, a.first) : less(rt, a.first, b.first);
  });
  std::vector<Value> out;
  out.reserve(keyed.size());
  for (auto& [key, item] : keyed) out.push_back(std::move(item));
  return rt.list(std::move(out));
}

Value sort(Runtime& rt, const Value& v, Args& args) {
  const auto arg = bind("sort", args, {"reverse", "case_sensitive", "attribute"});
  const bool fold_case = !flag(arg[1]);
  std::vector<Getter> getters;
  if (arg[2] && arg[2]->is_string()) {
    const std::string& text = arg[2]->text();
    for (size_t pos = 0; pos <= text.size();) {
      const size_t comma = std::min(text.find(',', pos), text.size());
      getters.emplace_back(rt, rt.string(text.substr(pos, comma - pos)), fold_case);
      pos = comma + 1;
    }
  } else {
    getters.emplace_back(rt, arg[2], fold_case);
  }
  Keyed keyed;
  const auto list = iterate(rt, v);
  for (const Value& item : list->items) {
    std::vector<Value> key;
    for (const Getter& get : getters) key.push_back(get(item));
    keyed.emplace_back(rt.list(std::move(key)), item);
  }
  return sorted(rt, std::move(keyed), descending(arg[0]));
}

Value dictsort(Runtime& rt, const Value& v, Args& args) {
  const auto arg = bind("dictsort", args, {"case_sensitive", "by", "reverse"});
  const std::string by = arg[1] ? to_str(rt, *arg[1]) : "key";
  if (by != "key" && by != "value") fail("dictsort: by must be \"key\" or \"value\"");
  if (v.is_undefined()) fail_undefined(v);
  if (!v.is_dict()) fail("dictsort needs a mapping, not {}", type_name(v));
  const Getter get(rt, std::nullopt, !flag(arg[0]));
  Keyed keyed;
  for (const auto& [key, value] : v.dict().entries)
    keyed.emplace_back(get(by == "key" ? key : value), rt.list({key, value}, Flavor::tuple));
  return sorted(rt, std::move(keyed), descending(arg[2]));
}

Value unique(Runtime& rt, const Value& v, Args& args) {
  const auto arg = bind("unique", args, {"case_sensitive", "attribute"});
  const Getter get(rt, arg[1], !flag(arg[0]));
  absl::flat_hash_set<std::string> seen;
  std::vector<Value> out;
  const auto list = iterate(rt, v);
  for (const Value& item : list->items) {
    std::string key = hash_key(get(item));
    rt.work(key.size());
    rt.allocate(key.size() + 64);
    if (seen.insert(std::move(key)).second) out.push_back(item);
  }
  return rt.list(std::move(out), Flavor::generator);
}

Value extreme(Runtime& rt, const Value& v, Args& args, const char* name, bool largest) {
  const auto arg = bind(name, args, {"case_sensitive", "attribute"});
  const Getter get(rt, arg[1], !flag(arg[0]));
  const auto list = iterate(rt, v);
  if (list->items.empty()) return make_undefined("No aggregated item, sequence was empty.");
  const Value* best = &list->items[0];
  Value best_key = get(*best);
  for (size_t i = 1; i < list->items.size(); ++i) {
    Value key = get(list->items[i]);
    if (largest ? !less(rt, best_key, key) : !less(rt, key, best_key)) continue;
    best = &list->items[i];
    best_key = std::move(key);
  }
  return *best;
}

Value smallest(Runtime& rt, const Value& v, Args& args) {
  return extreme(rt, v, args, "min", false);
}
Value largest(Runtime& rt, const Value& v, Args& args) { return extreme(rt, v, args, "max", true); }

// Rows of equal attribute, each a pair (grouper, list), in the order of that attribute.
Value groupby(Runtime& rt, const Value& v, Args& args) {
  const auto arg = bind("groupby", args, {"attribute", "default", "case_sensitive"}, 1);
  std::optional<Value> fallback = arg[1];
  if (fallback && fallback->is_none()) fallback.reset();
  const Getter key(rt, arg[0], !flag(arg[2]), fallback);
  const Getter as_written(rt, arg[0], false, fallback);
  Keyed keyed;
  const auto list = iterate(rt, v);
  for (const Value& item : list->items) keyed.emplace_back(key(item), item);
  rt.step(static_cast<int64_t>(keyed.size()));
  std::stable_sort(keyed.begin(), keyed.end(),
                   [&](const auto& a, const auto& b) { return less(rt, a.first, b.first); });
  std::vector<Value> groups;
  for (size_t from = 0; from < keyed.size();) {
    size_t to = from;
    std::vector<Value> rows;
    for (; to < keyed.size() && equals(rt, keyed[from].first, keyed[to].first); ++to)
      rows.push_back(keyed[to].second);
    if (to == from) rows.push_back(keyed[to++].second);  // a NaN, equal to nothing
    groups.push_back(rt.list({as_written(rows[0]), rt.list(std::move(rows))}, Flavor::tuple));
    groups.back().list_ptr()->group = true;
    from = to;
  }
  return rt.list(std::move(groups));
}

Value sum(Runtime& rt, const Value& v, Args& args) {
  const auto arg = bind("sum", args, {"attribute", "start"});
  const Getter get(rt, arg[0], false);
  Value total = arg[1] ? *arg[1] : Value(int64_t{0});
  if (total.is_string()) fail("sum() can't sum strings");
  const auto list = iterate(rt, v);
  for (const Value& item : list->items) total = add(rt, total, get(item));
  return total;
}

Value items(Runtime& rt, const Value& v, Args& args) {
  bind("items", args, {});
  if (v.is_undefined()) return rt.list({}, Flavor::generator);
  if (!v.is_dict()) fail("can only get item pairs from a mapping");
  std::vector<Value> out;
  for (const auto& [key, value] : v.dict().entries)
    out.push_back(rt.list({key, value}, Flavor::tuple));
  return rt.list(std::move(out), Flavor::generator);
}

Value map(Runtime& rt, const Value& v, Args& args) {
  std::vector<Value> out;
  if (!truthy(v)) return rt.list({}, Flavor::generator);
  const auto list = iterate(rt, v);
  if (args.positional.empty()) {
    const auto arg = bind("map", args, {"attribute", "default"});
    if (!arg[0]) fail("map needs a filter's name or an attribute");
    std::optional<Value> fallback = arg[1];
    if (fallback && fallback->is_none()) fallback.reset();
    const Getter get(rt, arg[0], false, fallback);
    for (const Value& item : list->items) out.push_back(get(item));
  } else {
    const std::string name = to_str(rt, args.positional[0]);
    for (const Value& item : list->items) {
      rt.step();
      Args rest{{args.positional.begin() + 1, args.positional.end()}, args.keyword};
      out.push_back(rt.apply_filter(name, item, rest));
    }
  }
  return rt.list(std::move(out), Flavor::generator);
}

Value choose(Runtime& rt, const Value& v, Args& args, bool keep, bool by_attribute) {
  std::vector<Value> out;
  if (!truthy(v)) return rt.list({}, Flavor::generator);
  const size_t off = by_attribute ? 1 : 0;
  if (args.positional.size() < off) fail("missing parameter for attribute name");
  const Getter get(rt, by_attribute ? std::optional(args.positional[0]) : std::nullopt, false);
  const bool has_test = args.positional.size() > off;
  const std::string name = has_test ? to_str(rt, args.positional[off]) : "";
  const auto list = iterate(rt, v);
  for (const Value& item : list->items) {
    const Value seen = get(item);
    bool good = false;
    if (has_test) {
      Args rest{
          {args.positional.begin() + static_cast<std::ptrdiff_t>(off) + 1, args.positional.end()},
          args.keyword};
      good = rt.apply_test(name, seen, rest);
    } else {
      good = truthy(seen);
    }
    if (good == keep) out.push_back(item);
  }
  return rt.list(std::move(out), Flavor::generator);
}

Value select(Runtime& rt, const Value& v, Args& args) { return choose(rt, v, args, true, false); }
Value reject(Runtime& rt, const Value& v, Args& args) { return choose(rt, v, args, false, false); }
Value selectattr(Runtime& rt, const Value& v, Args& args) {
  return choose(rt, v, args, true, true);
}
Value rejectattr(Runtime& rt, const Value& v, Args& args) {
  return choose(rt, v, args, false, true);
}

Value batch(Runtime& rt, const Value& v, Args& args) {
  const auto arg = bind("batch", args, {"linecount", "fill_with"}, 1);
  const int64_t size = to_index(*arg[0], "batch: linecount");
  std::vector<Value> out;
  std::vector<Value> row;
  const auto list = iterate(rt, v);
  for (const Value& item : list->items) {
    if (std::ssize(row) == size) out.push_back(rt.list(std::exchange(row, {})));
    row.push_back(item);
  }
  if (!row.empty()) {
    if (arg[1] && !arg[1]->is_none() && std::ssize(row) < size) {
      rt.check_items(static_cast<size_t>(size));
      rt.step(size);
      row.resize(static_cast<size_t>(size), *arg[1]);
    }
    out.push_back(rt.list(std::move(row)));
  }
  return rt.list(std::move(out), Flavor::generator);
}

Value slices(Runtime& rt, const Value& v, Args& args) {
  const auto arg = bind("slice", args, {"slices", "fill_with"}, 1);
  const int64_t count = to_index(*arg[0], "slice: slices");
  if (count == 0) fail("integer division or modulo by zero");
  if (count < 0) return rt.list({}, Flavor::generator);
  rt.check_items(static_cast<size_t>(count));
  const auto list = iterate(rt, v);
  const int64_t length = static_cast<int64_t>(list->items.size());
  const int64_t longer = length % count;
  std::vector<Value> out;
  auto from = list->items.begin();
  for (int64_t i = 0; i < count; ++i) {
    const auto to = from + (length / count + (i < longer ? 1 : 0));
    std::vector<Value> row(from, to);
    if (arg[1] && !arg[1]->is_none() && i >= longer) row.push_back(*arg[1]);
    out.push_back(rt.list(std::move(row)));
    from = to;
  }
  return rt.list(std::move(out), Flavor::generator);
}

Value attr(Runtime& rt, const Value& v, Args& args) {
  const auto arg = bind("attr", args, {"name"}, 1);
  if (v.is_undefined()) fail_undefined(v);
  if (!arg[0]->is_string()) fail("attribute name must be string, not '{}'", type_name(*arg[0]));
  const std::string& name = arg[0]->text();
  if (v.kind() == Kind::object)
    if (auto found = object_attribute(rt, v, name)) return *found;
  if (auto found = data_method(rt, v, name)) return *found;
  return make_undefined(fmt::format("'{} object' has no attribute '{}'", type_name(v), name));
}

constexpr FilterEntry entries[] = {
    {"length", length},
    {"count", length},
    {"join", join},
    {"first", first},
    {"last", last},
    {"list", to_list},
    {"reverse", reverse},
    {"sort", sort},
    {"dictsort", dictsort},
    {"unique", unique},
    {"min", smallest},
    {"max", largest},
    {"sum", sum},
    {"groupby", groupby},
    {"items", items},
    {"map", map},
    {"select", select},
    {"reject", reject},
    {"selectattr", selectattr},
    {"rejectattr", rejectattr},
    {"batch", batch},
    {"slice", slices},
    {"attr", attr},
    {{}, nullptr},
};

}  // namespace

const FilterEntry* sequence_filters() { return entries; }

std::string no_filter(std::string_view name) {
  for (std::string_view known : {"filesizeformat", "pprint", "random", "striptags", "urlencode",
                                 "urlize", "wordwrap", "xmlattr"})
    if (name == known) return fmt::format("the filter '{}' is not supported", name);
  return fmt::format("no filter named '{}'", name.substr(0, 100));
}

FilterFn find_filter(std::string_view name) {
  for (const FilterEntry* table : {string_filters(), sequence_filters()})
    for (; !table->name.empty(); ++table)
      if (table->name == name) return table->fn;
  return nullptr;
}

}  // namespace sluice::jinja
