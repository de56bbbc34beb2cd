#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>

namespace sluice {

// A model directory small enough for thousands of steps, with every feature of the real ones:
// grouped queries, several layers, tied embeddings, optionally q/k norm. Weights are noise, scaled
// so that the logits are peaked: a wrong cache shows in the tokens.
struct TinyModel {
  std::string architecture = "LlamaForCausalLM";
  bool qk_norm = false;
  bool bf16 = false;
  int layers = 2, hidden = 64, ffn = 96, heads = 4, kv_heads = 2, head_dim = 32, vocab = 300;
  int max_positions = 256;
  int window = 0;                  // of all layers, where the architecture has one; 0: null
  int full_layers = 0;             // the first ones, which have none
  float k_scale = 0, v_scale = 0;  // of a cache in fp8; 0: none is stored

  void write(const std::filesystem::path& dir) const {
    std::filesystem::create_directories(dir);
    std::ofstream(dir / "config.json") << fmt::format(
        R"({{"architectures":["{}"],"hidden_size":{},"intermediate_size":{},)"
        R"("num_attention_heads":{},"num_key_value_heads":{},"head_dim":{},"num_hidden_layers":{},)"
        R"("vocab_size":{},"max_position_embeddings":{},"rms_norm_eps":1e-5,"rope_theta":10000.0,)"
        R"("tie_word_embeddings":true,"hidden_act":"silu","eos_token_id":[0,1],)"
        R"({}"torch_dtype":"{}"}})",
        architecture, hidden, ffn, heads, kv_heads, head_dim, layers, vocab, max_positions,
        (window > 0 ? fmt::format(R"("sliding_window":{},)", window) : "") +
            (full_layers > 0
                 ? fmt::format(R"("use_sliding_window":true,"max_window_layers":{},)", full_layers)
                 : ""),
        bf16 ? "bfloat16" : "float32");
    std::string header, data;
    std::mt19937 rng(7);
    const auto put = [&](const std::string& name, std::vector<int64_t> shape, float mean,
                         float spread) {
      int64_t n = 1;
      for (const int64_t d : shape) n *= d;
      const size_t begin = data.size();
      std::normal_distribution<float> noise;
      for (int64_t i = 0; i < n; ++i) append(data, mean + spread * noise(rng));
      header += fmt::format(R"({}"{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                            header.empty() ? "" : ",", name, bf16 ? "BF16" : "F32",
                            fmt::join(shape, ","), begin, data.size());
    };
    const auto linear = [&](const std::string& name, int out, int in) {
      put(name, {out, in}, 0, 1.5f / std::sqrt(float(in)));
    };
    put("model.embed_tokens.weight", {vocab, hidden}, 0, 0.5f);
    for (int i = 0; i < layers; ++i) {
      const std::string p = fmt::format("model.layers.{}.", i);
      put(p + "input_layernorm.weight", {hidden}, 1, 0.1f);
      linear(p + "self_attn.q_proj.weight", heads * head_dim, hidden);
      linear(p + "self_attn.k_proj.weight", kv_heads * head_dim, hidden);
      linear(p + "self_attn.v_proj.weight", kv_heads * head_dim, hidden);
      linear(p + "self_attn.o_proj.weight", hidden, heads * head_dim);
      if (k_scale > 0) put(p + "self_attn.k_scale", {1}, k_scale, 0);
      if (v_scale > 0) put(p + "self_attn.v_scale", {1}, v_scale, 0);
      if (qk_norm) put(p + "self_attn.q_norm.weight", {head_dim}, 1, 0.1f);
      if (qk_norm) put(p + "self_attn.k_norm.weight", {head_dim}, 1, 0.1f);
      put(p + "post_attention_layernorm.weight", {hidden}, 1, 0.1f);
      linear(p + "mlp.gate_proj.weight", ffn, hidden);
      linear(p + "mlp.up_proj.weight", ffn, hidden);
      linear(p + "mlp.down_proj.weight", hidden, ffn);
    }
    put("model.norm.weight", {hidden}, 1, 0.1f);
    header = "{" + header + "}";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    const uint64_t size = header.size();
    std::ofstream out(dir / "model.safetensors", std::ios::binary);
    out.write(reinterpret_cast<const char*>(&size), 8);
    out << header << data;
  }

 private:
  void append(std::string& data, float value) const {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const auto* bytes = reinterpret_cast<const char*>(&bits);
    bf16 ? data.append(bytes + 2, 2) : data.append(bytes, 4);
  }
};

}  // namespace sluice
