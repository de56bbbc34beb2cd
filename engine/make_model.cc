#include "engine/make_model.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <thread>

#include "base/log.h"
#include "engine/json_util.h"
#include "engine/model_config.h"
#include "engine/random_weights.h"
#include "engine/synthetic_tokenizer.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

// A model by its config.json: what it says beside `shared`.
struct Preset {
  const char* name;
  const char* shared;
  const char* config;
};
// The tiny ones are of their family's form, and of nobody's size.
constexpr const char* kShared =
    R"({"hidden_size":128,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,)"
    R"("head_dim":32,"intermediate_size":256,"vocab_size":4096,"max_position_embeddings":4096,)"
    R"("rms_norm_eps":1e-6,"rope_theta":10000.0,"hidden_act":"silu","tie_word_embeddings":true,)"
    R"("initializer_range":0.02})";
constexpr const char* kUngated =
    R"({"hidden_size":128,"num_hidden_layers":2,"num_attention_heads":4,"vocab_size":4096,)"
    R"("max_position_embeddings":4096,"tie_word_embeddings":true,"initializer_range":0.02})";
constexpr Preset kPresets[] = {
    {"llama-3.2-1b", kShared,
     R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":2048,)"
     R"("num_hidden_layers":16,"num_attention_heads":32,"num_key_value_heads":8,)"
     R"("head_dim":64,"intermediate_size":8192,"vocab_size":128256,)"
     R"("tie_word_embeddings":true,"max_position_embeddings":131072,"rms_norm_eps":1e-5,)"
     R"("rope_theta":500000.0,"rope_scaling":{"rope_type":"llama3","factor":32,)"
     R"("low_freq_factor":1.0,"high_freq_factor":4.0,)"
     R"("original_max_position_embeddings":8192}})"},
    {"llama-3.1-8b", kShared,
     R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":4096,)"
     R"("num_hidden_layers":32,"num_attention_heads":32,"num_key_value_heads":8,)"
     R"("head_dim":128,"intermediate_size":14336,"vocab_size":128256,)"
     R"("tie_word_embeddings":false,"max_position_embeddings":131072,"rms_norm_eps":1e-5,)"
     R"("rope_theta":500000.0,"rope_scaling":{"rope_type":"llama3","factor":8,)"
     R"("low_freq_factor":1.0,"high_freq_factor":4.0,)"
     R"("original_max_position_embeddings":8192}})"},
    {"qwen3-0.6b", kShared,
     R"({"architectures":["Qwen3ForCausalLM"],"model_type":"qwen3","hidden_size":1024,)"
     R"("num_hidden_layers":28,"num_attention_heads":16,"num_key_value_heads":8,)"
     R"("head_dim":128,"intermediate_size":3072,"vocab_size":151936,)"
     R"("tie_word_embeddings":true,"max_position_embeddings":40960,"rms_norm_eps":1e-6,)"
     R"("rope_theta":1000000.0})"},
    {"llama-110m", kShared,
     R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":768,)"
     R"("num_hidden_layers":12,"num_attention_heads":12,"num_key_value_heads":12,)"
     R"("head_dim":64,"intermediate_size":2048,"vocab_size":32000,)"
     R"("tie_word_embeddings":false,"max_position_embeddings":4096,"rms_norm_eps":1e-5,)"
     R"("rope_theta":10000.0})"},
    {"nano", kShared,
     R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":64,)"
     R"("num_hidden_layers":1,"num_attention_heads":1,"num_key_value_heads":1,"head_dim":64,)"
     R"("intermediate_size":256,"vocab_size":4096,"tie_word_embeddings":true,)"
     R"("max_position_embeddings":4096,"rms_norm_eps":1e-5,"rope_theta":10000.0})"},
    {"tiny-mistral", kShared,
     R"({"architectures":["MistralForCausalLM"],"model_type":"mistral","sliding_window":256})"},
    {"tiny-qwen2", kShared,
     R"({"architectures":["Qwen2ForCausalLM"],"model_type":"qwen2",)"
     R"("use_sliding_window":true,"sliding_window":256,"max_window_layers":1})"},
    {"tiny-gemma", kShared,
     R"({"architectures":["GemmaForCausalLM"],"model_type":"gemma",)"
     R"("hidden_act":"gelu_pytorch_tanh"})"},
    {"tiny-gemma2", kShared,
     R"({"architectures":["Gemma2ForCausalLM"],"model_type":"gemma2",)"
     R"("hidden_act":"gelu_pytorch_tanh","hidden_activation":"gelu_pytorch_tanh",)"
     R"("query_pre_attn_scalar":32,"sliding_window":256,"attn_logit_softcapping":50.0,)"
     R"("final_logit_softcapping":30.0})"},
    {"tiny-gemma3", kShared,
     R"({"architectures":["Gemma3ForCausalLM"],"model_type":"gemma3_text",)"
     R"("hidden_act":"gelu_pytorch_tanh","hidden_activation":"gelu_pytorch_tanh",)"
     R"("query_pre_attn_scalar":32,"sliding_window":256,"sliding_window_pattern":2,)"
     R"("rope_local_base_freq":10000.0,"rope_theta":1000000.0})"},
    {"tiny-phi3", kShared,
     R"({"architectures":["Phi3ForCausalLM"],"model_type":"phi3",)"
     R"("partial_rotary_factor":0.5,"head_dim":null,"sliding_window":null,"pad_token_id":0})"},
    {"tiny-olmo2", kShared,
     R"({"architectures":["Olmo2ForCausalLM"],"model_type":"olmo2","head_dim":null,)"
     R"("attention_bias":false})"},
    {"tiny-granite", kShared,
     R"({"architectures":["GraniteForCausalLM"],"model_type":"granite","head_dim":null,)"
     R"("embedding_multiplier":12.0,"attention_multiplier":0.015625,)"
     R"("residual_multiplier":0.22,"logits_scaling":8.0,"attention_bias":false,)"
     R"("mlp_bias":false})"},
    {"tiny-mixtral", kShared,
     R"({"architectures":["MixtralForCausalLM"],"model_type":"mixtral","head_dim":null,)"
     R"("num_local_experts":4,"num_experts_per_tok":2,"sliding_window":null})"},
    {"tiny-qwen2-moe", kShared,
     R"({"architectures":["Qwen2MoeForCausalLM"],"model_type":"qwen2_moe","head_dim":null,)"
     R"("num_experts":8,"num_experts_per_tok":2,"moe_intermediate_size":64,)"
     R"("shared_expert_intermediate_size":128,"norm_topk_prob":false})"},
    {"tiny-qwen3-moe", kShared,
     R"({"architectures":["Qwen3MoeForCausalLM"],"model_type":"qwen3_moe","num_experts":8,)"
     R"("num_experts_per_tok":2,"moe_intermediate_size":64,"norm_topk_prob":true})"},
    {"tiny-decilm", kShared,
     R"({"architectures":["DeciLMForCausalLM"],"model_type":"nemotron-nas","head_dim":null,)"
     R"("intermediate_size":null,"num_key_value_heads":null,"num_hidden_layers":4,"block_configs":[)"
     R"({"attention":{"n_heads_in_group":2},"ffn":{"ffn_mult":2.5}},)"
     R"({"attention":{"no_op":true},"ffn":{"ffn_mult":5.25}},)"
     R"({"attention":{"n_heads_in_group":4},"ffn":{"no_op":true}},)"
     R"({"attention":{"replace_with_linear":true},"ffn":{"replace_with_linear":true}}]})"},
    {"tiny-openelm", "{}",
     R"({"architectures":["OpenELMForCausalLM"],"model_type":"openelm","model_dim":128,)"
     R"("num_transformer_layers":2,"head_dim":32,"num_query_heads":[4,6],"num_kv_heads":[2,3],)"
     R"("ffn_multipliers":[0.5,2.0],"ffn_dim_divisor":64,"max_context_length":2048,)"
     R"("vocab_size":4096,"normalize_qk_projections":true,"rope_freq_constant":10000})"},
    {"tiny-llama-pruned", kShared,
     R"({"architectures":["LlamaForCausalLM"],"model_type":"llama",)"
     R"("intermediate_size":[256,160],"num_attention_heads":[4,3],"num_key_value_heads":[2,1]})"},
    {"tiny-gpt2", "{}",
     R"({"architectures":["GPT2LMHeadModel"],"model_type":"gpt2","n_embd":128,"n_layer":2,"vocab_size":4096,)"
     R"("n_head":4,"n_positions":1024,"activation_function":"gelu_new",)"
     R"("layer_norm_epsilon":1e-5,"tie_word_embeddings":true})"},
    {"tiny-neox", kUngated,
     R"({"architectures":["GPTNeoXForCausalLM"],"model_type":"gpt_neox","hidden_act":"gelu",)"
     R"("intermediate_size":256,"layer_norm_eps":1e-5,"rotary_pct":0.25,"rotary_emb_base":10000,)"
     R"("use_parallel_residual":true})"},
    {"tiny-opt", kUngated,
     R"({"architectures":["OPTForCausalLM"],"model_type":"opt","ffn_dim":256,)"
     R"("activation_function":"relu","do_layer_norm_before":true,"word_embed_proj_dim":128,)"
     R"("max_position_embeddings":1024})"},
    {"tiny-falcon", kUngated,
     R"({"architectures":["FalconForCausalLM"],"model_type":"falcon","alibi":false,)"
     R"("num_kv_heads":2,"ffn_hidden_size":256,"layer_norm_epsilon":1e-5,"bias":false,)"
     R"("new_decoder_architecture":true})"},
    {"tiny-falcon-rw", kUngated,
     R"({"architectures":["FalconForCausalLM"],"model_type":"falcon","alibi":true,)"
     R"("multi_query":false,"parallel_attn":false,"layer_norm_epsilon":1e-5,"bias":true,)"
     R"("new_decoder_architecture":false})"},
    {"tiny-bloom", kUngated,
     R"({"architectures":["BloomForCausalLM"],"model_type":"bloom","layer_norm_epsilon":1e-5,)"
     R"("num_hidden_layers":null,"num_attention_heads":null,"max_position_embeddings":null,)"
     R"("n_layer":2,"n_head":4,"seq_length":2048})"},
    {"tiny-mpt", "{}",
     R"({"architectures":["MPTForCausalLM"],"model_type":"mpt","d_model":192,"n_layers":2,)"
     R"("n_heads":6,"expansion_ratio":4,"max_seq_len":2048,"vocab_size":4096,"no_bias":true,)"
     R"("attn_config":{"alibi":true,"alibi_bias_max":8}})"},
    {"tiny-phi", kUngated,
     R"({"architectures":["PhiForCausalLM"],"model_type":"phi","hidden_act":"gelu_new",)"
     R"("intermediate_size":256,"layer_norm_eps":1e-5,"partial_rotary_factor":0.5,"tie_word_embeddings":false})"},
    {"tiny-starcoder2", kUngated,
     R"({"architectures":["Starcoder2ForCausalLM"],"model_type":"starcoder2",)"
     R"("hidden_act":"gelu_pytorch_tanh","norm_epsilon":1e-5,"use_bias":true,"intermediate_size":256,)"
     R"("num_key_value_heads":2,)"
     R"("sliding_window":256})"}};

// How a directory of ours is known again.
constexpr std::string_view kMark = "sluice make-model ";

// As llm-compressor's FP8_DYNAMIC writes it: a scale for each output, activations by the token.
OrderedJson quantization_json() {
  const auto arguments = [](const char* strategy, bool dynamic) {
    return OrderedJson{{"dynamic", dynamic},
                       {"num_bits", 8},
                       {"strategy", strategy},
                       {"symmetric", true},
                       {"type", "float"}};
  };
  return {{"config_groups",
           {{"group_0",
             {{"input_activations", arguments("token", true)},
              {"output_activations", nullptr},
              {"targets", {"Linear"}},
              {"weights", arguments("channel", false)}}}}},
          {"format", "float-quantized"},
          {"ignore", {"lm_head"}},
          {"kv_cache_scheme", nullptr},
          {"quant_method", "compressed-tensors"},
          {"quantization_status", "compressed"}};
}

OrderedJson config_json(const Preset& p, uint64_t seed, std::string_view dtype) {
  OrderedJson json = {{"_name_or_path", fmt::format("{}{} --seed {}", kMark, p.name, seed)},
                      {"torch_dtype", dtype}};
  json.update(OrderedJson::parse(p.shared));
  json.merge_patch(OrderedJson::parse(p.config));  // null: without it
  const SyntheticSpecials specials(json["vocab_size"]);
  json["bos_token_id"] = specials.bos();
  json["eos_token_id"] = {specials.end_of_text(), specials.end_of_turn()};
  return json;
}

size_t bytes_of(const StoredTensor& t, int64_t count) {
  return size_t(count) * bits_of(*t.dtype) / 8;
}

std::string header_of(const std::vector<StoredTensor>& tensors) {
  OrderedJson json = {{"__metadata__", {{"format", "pt"}}}};
  size_t offset = 0;
  for (const StoredTensor& t : tensors) {
    json[t.name] = {
        {"dtype", t.dtype_name}, {"shape", t.shape}, {"data_offsets", {offset, offset + t.bytes}}};
    offset += t.bytes;
  }
  std::string text = json.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t size = text.size();
  return std::string(reinterpret_cast<const char*>(&size), 8) + text;
}

bool write_all(int fd, const char* data, size_t bytes, size_t offset) {
  while (bytes > 0) {
    const ssize_t n = ::pwrite(fd, data, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    data += n;
    offset += static_cast<size_t>(n);
    bytes -= static_cast<size_t>(n);
  }
  return true;
}

// Every piece is a pure function of its place, so threads only share a counter and the file.
absl::Status write_tensors(const fs::path& path, const ModelConfig& config, uint64_t seed,
                           DType dtype) {
  const std::vector<StoredTensor> tensors = random_checkpoint(config, dtype, seed);
  const std::string header = header_of(tensors);
  constexpr int64_t kPiece = 1 << 17;  // elements
  struct Piece {
    const StoredTensor* tensor;
    int64_t begin, count;
    size_t at;  // in the file
  };
  std::vector<Piece> pieces;
  size_t total = header.size();
  for (const StoredTensor& t : tensors) {
    const auto size = int64_t(t.bytes * 8 / size_t(bits_of(*t.dtype)));
    for (int64_t i = 0; i < size; i += kPiece)
      pieces.push_back({&t, i, std::min(kPiece, size - i), total + bytes_of(t, i)});
    total += t.bytes;
  }
  std::error_code error;
  const fs::space_info space = fs::space(path.parent_path(), error);
  if (!error && space.available < total)
    return resource_exhausted("make-model: {} needs {:.1f} GB, {:.1f} GB are free",
                              path.parent_path().string(), total / 1e9, space.available / 1e9);
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return invalid_argument("make-model: {}: {}", path.string(), std::strerror(errno));
  std::atomic<bool> failed = !write_all(fd, header.data(), header.size(), 0);
  std::atomic<size_t> next = 0, done = 0;
  std::atomic<int> write_error = failed ? errno : 0;
  const auto work = [&](bool reports) {
    std::vector<std::byte> buffer;
    auto last = std::chrono::steady_clock::now();
    for (size_t i = next++; i < pieces.size() && !failed; i = next++) {
      const Piece& piece = pieces[i];
      buffer.resize(bytes_of(*piece.tensor, piece.count));
      random_elements(*piece.tensor, piece.begin, piece.count, buffer.data());
      const auto* data = reinterpret_cast<const char*>(buffer.data());
      if (!write_all(fd, data, buffer.size(), piece.at)) {
        write_error = errno;
        failed = true;
      }
      done += buffer.size();
      const auto now = std::chrono::steady_clock::now();
      if (reports && now - last > std::chrono::seconds(2)) {
        last = now;
        log_info("make-model: {:.1f} of {:.1f} GB written", done / 1e9, total / 1e9);
      }
    }
  };
  std::vector<std::thread> helpers;
  const unsigned threads = std::clamp(std::thread::hardware_concurrency(), 1u, 16u);
  for (unsigned t = 1; t < threads; ++t) helpers.emplace_back(work, false);
  work(true);
  for (std::thread& t : helpers) t.join();
  if (::close(fd) != 0 && !failed) {
    write_error = errno;
    failed = true;
  }
  if (failed)
    return resource_exhausted("make-model: {}: {}", path.string(), std::strerror(write_error));
  return absl::OkStatus();
}

absl::Status write_text(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file) return invalid_argument("make-model: {} cannot be written", path.string());
  return absl::OkStatus();
}

// New, empty, or ours.
absl::Status prepare_directory(const fs::path& out) {
  std::error_code error;
  if (out.empty()) return invalid_argument("make-model: --out is empty");
  if (fs::exists(out, error) && !fs::is_directory(out, error))
    return invalid_argument("make-model: {} is not a directory", out.string());
  fs::create_directories(out, error);
  if (error) return invalid_argument("make-model: {}: {}", out.string(), error.message());
  const bool empty = fs::is_empty(out, error);
  if (error) return invalid_argument("make-model: {}: {}", out.string(), error.message());
  if (empty) return absl::OkStatus();
  if (const auto text = read_text_file(out / "config.json", 1 << 20); text.ok()) {
    if (const auto json = parse_json_object(*text, "config.json"); json.ok()) {
      const auto name = json->find("_name_or_path");
      if (name != json->end() && name->is_string() &&
          name->get_ref<const std::string&>().starts_with(kMark))
        return absl::OkStatus();
    }
  }
  return invalid_argument("make-model: {} is not empty and was not written by make-model",
                          out.string());
}

}  // namespace

std::vector<std::string> model_preset_names() {
  std::vector<std::string> names;
  for (const Preset& p : kPresets) names.emplace_back(p.name);
  return names;
}

absl::Status make_model(std::string_view preset, uint64_t seed, std::string_view dtype_name,
                        const fs::path& out, bool with_weights) {
  const auto p = std::find_if(std::begin(kPresets), std::end(kPresets),
                              [&](const Preset& x) { return preset == x.name; });
  if (p == std::end(kPresets))
    return invalid_argument("make-model: preset \"{}\", expected one of {}", preset,
                            fmt::join(model_preset_names(), ", "));
  DType dtype = DType::bf16;
  const char* config_dtype = "bfloat16";
  if (dtype_name == "f32") {
    dtype = DType::f32;
    config_dtype = "float32";
  } else if (dtype_name == "f16") {
    dtype = DType::f16;
    config_dtype = "float16";
  } else if (dtype_name == "fp8") {
    dtype = DType::fp8_e4m3;
  } else if (dtype_name != "bf16") {
    return invalid_argument("make-model: dtype \"{}\", expected f32, f16, bf16 or fp8", dtype_name);
  }
  if (absl::Status s = prepare_directory(out); !s.ok()) return s;

  OrderedJson config = config_json(*p, seed, config_dtype);
  if (dtype == DType::fp8_e4m3) config["quantization_config"] = quantization_json();
  if (absl::Status s = write_text(out / "config.json", config.dump(2) + "\n"); !s.ok()) return s;
  const OrderedJson generation = {{"bos_token_id", config["bos_token_id"]},
                                  {"eos_token_id", config["eos_token_id"]},
                                  {"do_sample", true},
                                  {"temperature", 0.7},
                                  {"top_p", 0.9}};
  if (absl::Status s = write_text(out / "generation_config.json", generation.dump(2) + "\n");
      !s.ok())
    return s;
  // The file as it will be read: the family knows its tensors.
  const absl::StatusOr<ModelConfig> model = read_model_config(out);
  if (!model.ok()) return model.status();
  const std::pair<const char*, std::string> files[] = {
      {"tokenizer.json", synthetic_tokenizer_json(model->vocab_size)},
      {"tokenizer_config.json",
       synthetic_tokenizer_config_json(model->vocab_size, model->max_positions)}};
  for (const auto& [name, text] : files)
    if (absl::Status s = write_text(out / name, text); !s.ok()) return s;
  // Under its real name only when whole: a run that was cut short must not look like a model.
  const fs::path partial = out / "model.safetensors.partial";
  std::error_code error;
  fs::remove(out / "model.safetensors", error);
  if (!with_weights) {
    log_info("make-model: wrote {} ({}, without weights) to {}", p->name, dtype_name, out.string());
    return absl::OkStatus();
  }
  if (absl::Status s = write_tensors(partial, *model, seed, dtype); !s.ok()) {
    fs::remove(partial, error);
    return s;
  }
  fs::rename(partial, out / "model.safetensors", error);
  if (error) return invalid_argument("make-model: {}: {}", partial.string(), error.message());
  log_info("make-model: wrote {} ({}, seed {}) to {}", p->name, dtype_name, seed, out.string());
  return absl::OkStatus();
}

}  // namespace sluice
