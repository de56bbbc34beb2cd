#include "server/inspect.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/text.h"
#include "engine/models/dense.h"
#include "text/chat_template.h"
#include "text/self_test.h"
#include "text/tokenizer.h"

namespace sluice {
namespace {

using Json = nlohmann::ordered_json;
using Rows = std::vector<std::pair<std::string, std::string>>;

constexpr size_t kShown = 8;  // tensors that are named, of those with a fault; the JSON has all

std::vector<std::string> messages_of(const std::vector<absl::Status>& problems) {
  std::vector<std::string> lines;
  for (const absl::Status& problem : problems) lines.push_back(one_line(message_of(problem)));
  return lines;
}

// "7.2 billion"
std::string short_count(int64_t n) {
  if (n >= 1'000'000'000) return fmt::format("{:.1f} billion", double(n) / 1e9);
  if (n >= 1'000'000) return fmt::format("{:.1f} million", double(n) / 1e6);
  return count_text(n);
}

std::string some_of(const std::vector<std::string>& names, size_t most) {
  const size_t shown = std::min(names.size(), most);
  std::string text;
  for (size_t i = 0; i < shown; ++i) text += (i > 0 ? ", " : "") + one_line(names[i], 80);
  if (shown < names.size()) text += fmt::format(", and {} more", names.size() - shown);
  return text;
}

// --- what the model computes ---

const char* rope_name(RopeConfig::Type type) {
  switch (type) {
    case RopeConfig::Type::standard:
      return "default";
    case RopeConfig::Type::linear:
      return "linear";
    case RopeConfig::Type::dynamic:
      return "dynamic";
    case RopeConfig::Type::llama3:
      return "llama3";
    case RopeConfig::Type::yarn:
      return "yarn";
    case RopeConfig::Type::longrope:
      return "longrope";
  }
  return "";
}

std::string rope_text(const RopeConfig& rope) {
  std::string text = fmt::format("rotary, {}, theta {}", rope_name(rope.type), rope.theta);
  if (rope.factor != 1) text += fmt::format(", factor {:.4g}", rope.factor);
  return text;
}

const char* heads_kind(const ModelConfig& c) {
  bool each = true;  // head has keys and values of its own
  for (const LayerConfig& layer : c.layers) each &= layer.num_kv_heads == layer.num_heads;
  if (each) return "multi-head";
  return c.most(&LayerConfig::num_kv_heads) == 1 ? "multi-query" : "grouped-query";
}

// "4", or "2 to 8" where layers differ; those that have none are left out.
std::string size_text(const ModelConfig& c, int LayerConfig::*size) {
  const int most = c.most(size);
  int least = most;
  for (const LayerConfig& layer : c.layers)
    if (layer.*size > 0) least = std::min(least, layer.*size);
  return least == most ? count_text(most)
                       : fmt::format("{} to {}", count_text(least), count_text(most));
}

// "; 3 layers without attention, 1 with a linear layer for it", or nothing.
std::string parts_text(const ModelConfig& c, LayerConfig::Part LayerConfig::*part,
                       const char* name) {
  using Part = LayerConfig::Part;
  const auto count = [&](Part p) {
    return std::count_if(c.layers.begin(), c.layers.end(),
                         [&](const LayerConfig& layer) { return layer.*part == p; });
  };
  std::string text;
  if (const auto n = count(Part::none); n > 0)
    text += fmt::format("; {} layer{} without {}", n, n == 1 ? "" : "s", name);
  if (const auto n = count(Part::linear); n > 0)
    text += fmt::format("; {} layer{} with one matrix for {}", n, n == 1 ? "" : "s", name);
  return text;
}

// Of each layer, where they differ.
Json sizes_json(const ModelConfig& c, int LayerConfig::*size) {
  Json sizes = Json::array();
  bool alike = true;
  for (const LayerConfig& layer : c.layers) {
    sizes.push_back(layer.*size);
    alike &= layer.*size == c.layers[0].*size;
  }
  return alike ? sizes[0] : sizes;
}

std::map<int, int> windows_of(const ModelConfig& c) {  // layers by window
  std::map<int, int> windows;
  for (const LayerConfig& layer : c.layers)
    if (layer.window > 0) ++windows[layer.window];
  return windows;
}

Rows model_rows(const ModelConfig& c) {
  Rows rows;
  rows.emplace_back("layers",
                    fmt::format("{}, {} wide; MLP {}{}{}", c.num_layers, count_text(c.hidden_size),
                                size_text(c, &LayerConfig::ffn_size),
                                c.parallel_residual ? ", beside attention" : "",
                                parts_text(c, &LayerConfig::mlp, "MLP")));
  const auto experts = std::count_if(c.layers.begin(), c.layers.end(),
                                     [](const LayerConfig& layer) { return layer.experts; });
  if (experts > 0)
    rows.emplace_back(
        "experts",
        fmt::format("{}, {} of them for each token, {} wide, in {} of {} layers{}", c.num_experts,
                    c.experts_per_token, count_text(c.expert_ffn_size), experts, c.num_layers,
                    c.shared_ffn_size > 0
                        ? fmt::format("; a shared one, {}", count_text(c.shared_ffn_size))
                        : ""));
  std::string attention =
      fmt::format("{}: {} head{} of {}", heads_kind(c), size_text(c, &LayerConfig::num_heads),
                  c.most(&LayerConfig::num_heads) == 1 ? "" : "s", c.head_dim);
  if (std::string_view(heads_kind(c)) != "multi-head")
    attention += fmt::format(", {} with keys and values", size_text(c, &LayerConfig::num_kv_heads));
  attention += parts_text(c, &LayerConfig::attention, "attention");
  if (c.qk_norm != ModelConfig::QkNorm::none) attention += "; queries and keys are normed";
  rows.emplace_back("attention", attention);
  for (const auto& [window, layers] : windows_of(c))
    rows.emplace_back("  window", fmt::format("{} tokens in {} of {} layers", count_text(window),
                                              layers, c.num_layers));
  if (c.attention_softcap > 0)
    rows.emplace_back("  soft-cap", fmt::format("scores at {}", c.attention_softcap));
  if (c.logits_softcap > 0)
    rows.emplace_back("logits", fmt::format("soft-capped at {}", c.logits_softcap));
  std::string positions = c.alibi.empty() ? "learned" : "linear biases of scores (ALiBi)";
  if (c.positions == ModelConfig::Positions::rotary) {
    positions = rope_text(c.rope);
    if (c.rotary_dim != c.head_dim)
      positions += fmt::format(", of {} of {} dims", c.rotary_dim, c.head_dim);
  }
  rows.emplace_back("positions", positions);
  if (std::any_of(c.layers.begin(), c.layers.end(), [](const auto& l) { return l.local_rope; }))
    rows.emplace_back("  in windows", rope_text(c.local_rope));
  rows.emplace_back("context", count_text(c.max_positions) + " tokens");
  rows.emplace_back("vocabulary", count_text(c.vocab_size) +
                                      (c.tied_embeddings ? "; the head is the embedding" : ""));
  return rows;
}

Json model_json(const ModelConfig& c) {
  const bool rotary = c.positions == ModelConfig::Positions::rotary;
  Json windows = Json::array();
  for (const LayerConfig& layer : c.layers) windows.push_back(layer.window);
  return {{"layers", c.num_layers},
          {"hidden_size", c.hidden_size},
          {"ffn_size", sizes_json(c, &LayerConfig::ffn_size)},  // a list where layers differ
          {"experts", c.num_experts},
          {"experts_per_token", c.experts_per_token},
          {"attention", heads_kind(c)},
          {"heads", sizes_json(c, &LayerConfig::num_heads)},
          {"kv_heads", sizes_json(c, &LayerConfig::num_kv_heads)},
          {"head_dim", c.head_dim},
          {"windows", windows},  // of each layer; 0: none
          {"attention_softcap", c.attention_softcap},
          {"logits_softcap", c.logits_softcap},
          {"alibi", !c.alibi.empty()},
          {"rope", rotary ? Json(rope_name(c.rope.type)) : Json()},
          {"rope_theta", rotary ? Json(c.rope.theta) : Json()},
          {"rope_factor", rotary ? Json(c.rope.factor) : Json()},
          {"rotary_dim", c.rotary_dim},
          {"context", c.max_positions},
          {"vocab_size", c.vocab_size},
          {"tied_embeddings", c.tied_embeddings}};
}

// --- the files ---

struct DTypeTotal {
  int64_t tensors = 0, bytes = 0;
};

struct Report {
  std::string dir;
  ConfigReview config;
  Safetensors stored;
  WeightReview weights;
  std::map<std::string, DTypeTotal> dtypes;  // of all that is stored
  int64_t parameters = 0;                    // of the model
  int64_t active = 0;                        // of them, for each token
  std::unique_ptr<Tokenizer> tokenizer;      // null: it cannot be read
  std::string self_test;                     // empty: it has passed
  std::vector<std::string> special;          // tokens, in order of their ids
  std::vector<ChatTemplate::Reviewed> templates;
  std::vector<absl::Status> problems;
  size_t first_tensor_problem = 0;

  void add(absl::Status s) {
    if (!s.ok()) problems.push_back(std::move(s));
  }
  void add(const std::vector<absl::Status>& more) {
    problems.insert(problems.end(), more.begin(), more.end());
  }
  std::string token(std::optional<TokenId> id) const {
    return id && tokenizer ? std::string(tokenizer->content(*id)) : "";
  }
};

void review_weights(const std::filesystem::path& dir, Report& r) {
  std::vector<absl::Status> problems;
  r.stored = Safetensors::review(dir, problems);
  r.add(problems);
  for (const StoredTensor& t : r.stored.tensors()) {
    ++r.dtypes[t.dtype_name].tensors;
    r.dtypes[t.dtype_name].bytes += int64_t(t.bytes);
  }
  if (!r.config.has_sizes || r.stored.tensors().empty()) return;
  const ModelConfig& c = r.config.config;
  r.weights = review_checkpoint(c, r.stored);
  r.first_tensor_problem = r.problems.size();
  r.add(r.weights.problems);
  for (const WeightReview::Group& group : r.weights.groups) {
    r.parameters += group.parameters;
    r.active += group.name == std::string_view("experts")
                    ? group.parameters / c.num_experts * c.experts_per_token
                    : group.parameters;
  }
}

void review_text(const std::filesystem::path& dir, Report& r) {
  auto tokenizer = Tokenizer::load(dir);
  if (tokenizer.ok()) {
    r.tokenizer = *std::move(tokenizer);
    const absl::Status tested = self_test(*r.tokenizer);
    r.self_test = message_of(tested);
    r.add(annotate(tested, (dir / r.tokenizer->file()).string()));
    if (r.config.has_sizes) r.add(check_vocabulary(*r.tokenizer, r.config.config.vocab_size));
    for (TokenId id = 0; id < r.tokenizer->vocab_size(); ++id)
      if (r.tokenizer->is_special(id)) r.special.emplace_back(r.tokenizer->content(id));
  } else {
    r.add(tokenizer.status());
  }
  auto templates = ChatTemplate::review(dir);
  if (templates.ok()) {
    r.templates = *std::move(templates);
    for (const auto& reviewed : r.templates) r.add(reviewed.status);
  } else if (!absl::IsNotFound(templates.status())) {
    r.add(templates.status());
  }
}

// --- the report ---

void append_rows(std::string& text, const char* title, const Rows& rows) {
  if (rows.empty()) return;
  text += fmt::format("\n{}\n", title);
  for (const auto& [name, value] : rows) text += fmt::format("  {:<16} {}\n", name, value);
}

void append_list(std::string& text, const std::string& title,
                 const std::vector<std::string>& lines) {
  if (lines.empty()) return;
  text += fmt::format("\n{}\n", title);
  for (const std::string& line : lines) text += fmt::format("  - {}\n", line);
}

// One wrong size is a fault of most tensors, which must not hide what else there is.
std::vector<std::string> shown_problems(const Report& r) {
  std::vector<std::string> lines = messages_of(r.problems);
  const size_t tensors = r.weights.problems.size();
  if (tensors <= kShown) return lines;
  const auto rest = lines.begin() + static_cast<ptrdiff_t>(r.first_tensor_problem + kShown);
  *rest = fmt::format("and {} more tensors (--json names them all)", tensors - kShown);
  lines.erase(rest + 1, rest + static_cast<ptrdiff_t>(tensors - kShown));
  return lines;
}

void append_weights(std::string& text, const Report& r) {
  if (r.stored.tensors().empty()) return;
  text += fmt::format("\n{:<18} {:>17} {:>10}  {}\n", "weights", "parameters", "bytes", "types");
  const auto line = [&](std::string_view name, const std::string& count, int64_t bytes,
                        const std::string& types) {
    text += fmt::format("  {:<16} {:>17} {:>10}  {}\n", name, count, bytes_text(bytes), types);
  };
  for (const WeightReview::Group& g : r.weights.groups)
    line(g.name, count_text(g.parameters), int64_t(g.bytes),
         fmt::format("{}", fmt::join(g.dtypes, ", ")));
  std::string types;
  for (const auto& [name, total] : r.dtypes)
    types += fmt::format("{}{} {}", types.empty() ? "" : ", ", name, bytes_text(total.bytes));
  line("in the files", r.parameters > 0 ? count_text(r.parameters) : "", int64_t(r.stored.bytes()),
       types);
  if (!r.weights.unused.empty())
    text += fmt::format("  {:<16} {} tensors: {}\n", "not used", r.weights.unused.size(),
                        some_of(r.weights.unused, 4));
}

Rows text_rows(const Report& r) {
  Rows rows;
  if (r.tokenizer) {
    rows.emplace_back("file", r.tokenizer->file());
    rows.emplace_back("kind", r.tokenizer->kind());
    rows.emplace_back("tokens",
                      fmt::format("{}, {} of them special", count_text(r.tokenizer->vocab_size()),
                                  r.special.size()));
    if (!r.special.empty()) rows.emplace_back("special", some_of(r.special, 6));
    std::vector<std::string> ends;
    for (const TokenId id : r.config.config.eos_ids) ends.push_back(r.token(id));
    if (const std::string bos = r.token(r.config.config.bos_id); !bos.empty())
      rows.emplace_back("a text begins", bos);
    if (!ends.empty()) rows.emplace_back("an answer ends", some_of(ends, 6));
    rows.emplace_back("self-test", r.self_test.empty() ? "passed" : "failed");
  }
  std::vector<std::string> names;
  for (const auto& t : r.templates) names.push_back(t.name + (t.status.ok() ? "" : " (refused)"));
  rows.emplace_back("chat templates", names.empty() ? "none: completions only" : some_of(names, 8));
  return rows;
}

std::string to_text(const Report& r) {
  const ModelConfig& c = r.config.config;
  std::string text = r.dir;
  if (!c.architecture.empty()) text += ": " + c.architecture;
  if (r.parameters > 0) text += fmt::format(", {} parameters", short_count(r.parameters));
  if (r.active < r.parameters) text += fmt::format(" ({} for a token)", short_count(r.active));
  if (r.stored.num_files() > 0)
    text += fmt::format(", {} in {} file{}", bytes_text(int64_t(r.stored.bytes())),
                        r.stored.num_files(), r.stored.num_files() == 1 ? "" : "s");
  text += "\n";
  if (r.config.has_sizes) append_rows(text, "model", model_rows(c));
  append_weights(text, r);
  append_rows(text, "text", text_rows(r));
  append_list(text, "to note", c.warnings);
  const size_t reasons = r.problems.size();
  append_list(text,
              fmt::format("cannot be served, for {} reason{}", reasons, reasons == 1 ? "" : "s"),
              shown_problems(r));
  if (reasons == 0) text += "\ncan be served; `sluice plan` says what memory it takes\n";
  return text;
}

std::string to_json(const Report& r) {
  const ModelConfig& c = r.config.config;
  Json json = {{"directory", r.dir}, {"architecture", c.architecture}};
  json["can_be_served"] = r.problems.empty();
  json["problems"] = messages_of(r.problems);
  json["warnings"] = c.warnings;
  json["model"] = r.config.has_sizes ? model_json(c) : Json();
  Json groups = Json::array(), dtypes = Json::object();
  for (const WeightReview::Group& g : r.weights.groups)
    groups.push_back({{"kind", g.name},
                      {"tensors", g.tensors},
                      {"parameters", g.parameters},
                      {"bytes", g.bytes},
                      {"dtypes", g.dtypes}});
  for (const auto& [name, total] : r.dtypes)
    dtypes[name] = {{"tensors", total.tensors}, {"bytes", total.bytes}};
  json["weights"] = {{"files", r.stored.num_files()},
                     {"bytes", r.stored.bytes()},
                     {"parameters", r.parameters},
                     {"active_parameters", r.active},
                     {"kinds", groups},
                     {"dtypes", dtypes},
                     {"unused_tensors", r.weights.unused}};
  json["tokenizer"] = Json();
  if (r.tokenizer)
    json["tokenizer"] = {{"file", r.tokenizer->file()},
                         {"kind", r.tokenizer->kind()},
                         {"tokens", r.tokenizer->vocab_size()},
                         {"special_tokens", r.special},
                         {"self_test", r.self_test.empty() ? "passed" : r.self_test}};
  json["chat_templates"] = Json::array();
  for (const auto& t : r.templates)
    json["chat_templates"].push_back(
        {{"name", t.name}, {"error", t.status.ok() ? Json() : Json(message_of(t.status))}});
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

absl::StatusOr<Inspection> inspect_model(const std::filesystem::path& dir) {
  std::error_code error;
  if (!std::filesystem::is_directory(dir, error))
    return not_found("model: {}: {}", dir.string(), error ? error.message() : "not a directory");
  Report report;
  report.dir = dir.string();
  report.config = review_model_config(dir);
  report.add(report.config.problems);
  review_weights(dir, report);
  review_text(dir, report);
  return Inspection{to_text(report), to_json(report), messages_of(report.problems)};
}

}  // namespace sluice
