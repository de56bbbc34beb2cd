// Mistakes in a model: the comparison with transformers must notice each.
#include "tests/golden/models/loaded_case.h"

namespace sluice {
namespace {

float worst_with(const std::string& name, const std::function<void(Json&)>& change,
                 const TensorEdit& edit = {}) {
  const GoldenCase golden(name);
  Json config = golden.json["config"];
  if (change) change(config);
  LoadedCase run(golden, "BF16", "f32", DType::f32, config, edit);
  return run.ready() ? run.worst() : 0;
}

struct ConfigMutant {
  const char* what;
  const char* golden;
  void (*change)(Json&);
};
const ConfigMutant kConfigMutants[] = {
    {"rope factor", "llama3_gqa", [](Json& c) { c["rope_scaling"]["factor"] = 7.5; }},
    {"rope factor, newer layout", "llama3_tied",
     [](Json& c) { c["rope_parameters"]["factor"] = 30.0; }},
    {"rope low", "llama3_gqa", [](Json& c) { c["rope_scaling"]["low_freq_factor"] = 1.1; }},
    {"rope high", "llama3_gqa", [](Json& c) { c["rope_scaling"]["high_freq_factor"] = 3.9; }},
    {"rope original length", "llama3_tied",
     [](Json& c) { c["rope_parameters"]["original_max_position_embeddings"] = 72; }},
    {"rope not scaled", "llama3_gqa", [](Json& c) { c["rope_scaling"] = nullptr; }},
    {"theta", "llama3_gqa", [](Json& c) { c["rope_theta"] = 490000.0; }},
    {"theta of Qwen", "qwen3_gqa", [](Json& c) { c["rope_parameters"]["rope_theta"] = 990000.0; }},
    {"epsilon of Llama", "llama2_bias", [](Json& c) { c["rms_norm_eps"] = 1.1e-5; }},
    {"epsilon of Qwen", "qwen3_gqa", [](Json& c) { c["rms_norm_eps"] = 2e-6; }},
    {"no q/k norm", "qwen3_gqa", [](Json& c) { c["architectures"] = {"LlamaForCausalLM"}; }},
    {"no attention bias", "llama2_bias", [](Json& c) { c["attention_bias"] = false; }},
    {"no mlp bias", "llama2_bias", [](Json& c) { c["mlp_bias"] = false; }},
    {"a window of one more", "mistral_window", [](Json& c) { c["sliding_window"] = 41; }},
    {"no window", "mistral_window", [](Json& c) { c["sliding_window"] = nullptr; }},
    {"windows from another layer on", "qwen2_window", [](Json& c) { c["max_window_layers"] = 2; }},
    {"windows in other layers", "gemma2",
     [](Json& c) {
       c["layer_types"] = {"full_attention", "sliding_attention", "full_attention"};
     }},
    {"another pattern", "gemma3", [](Json& c) { c["sliding_window_pattern"] = 2; }},
    {"other layers by types", "gemma3_types",
     [](Json& c) {
       c["layer_types"] = {"sliding_attention", "sliding_attention", "full_attention"};
     }},
    {"local theta", "gemma3", [](Json& c) { c["rope_local_base_freq"] = 10100.0; }},
    {"local theta, newer layout", "gemma3_types",
     [](Json& c) { c["rope_parameters"]["sliding_attention"]["rope_theta"] = 21000.0; }},
    {"linear, of the layers that see everything", "gemma3",
     [](Json& c) { c["rope_scaling"]["factor"] = 7.5; }},
    {"scale of scores", "gemma2", [](Json& c) { c["query_pre_attn_scalar"] = 47; }},
    {"cap of scores", "gemma2", [](Json& c) { c["attn_logit_softcapping"] = 2.1; }},
    {"no cap of scores", "gemma2", [](Json& c) { c["attn_logit_softcapping"] = nullptr; }},
    {"cap of logits", "gemma2", [](Json& c) { c["final_logit_softcapping"] = 10.1; }},
    {"no cap of logits", "gemma2", [](Json& c) { c["final_logit_softcapping"] = nullptr; }},
    {"less rotated", "phi4_partial", [](Json& c) { c["partial_rotary_factor"] = 0.4375; }},
    {"short factor", "phi3_short", [](Json& c) { c["rope_scaling"]["short_factor"][3] = 1.16; }},
    {"long factor", "phi3_long", [](Json& c) { c["rope_scaling"]["long_factor"][3] = 2.2; }},
    {"original length of longrope", "phi3_long",
     [](Json& c) { c["original_max_position_embeddings"] = 66; }},
    {"scale of embeddings", "granite", [](Json& c) { c["embedding_multiplier"] = 12.1; }},
    {"scale of residuals", "granite", [](Json& c) { c["residual_multiplier"] = 0.221; }},
    {"scale of scores, given", "granite", [](Json& c) { c["attention_multiplier"] = 0.126; }},
    {"scale of logits", "granite", [](Json& c) { c["logits_scaling"] = 0.251; }},
    {"linear factor", "llama_linear", [](Json& c) { c["rope_scaling"]["factor"] = 3.1; }},
    {"dynamic factor", "llama_dynamic", [](Json& c) { c["rope_scaling"]["factor"] = 4.1; }},
    {"yarn factor", "qwen2_yarn", [](Json& c) { c["rope_scaling"]["factor"] = 4.1; }},
    {"original length of yarn", "qwen2_yarn",
     [](Json& c) { c["rope_scaling"]["original_max_position_embeddings"] = 500; }},
    {"attention factor of yarn", "qwen2_yarn",
     [](Json& c) { c["rope_scaling"]["attention_factor"] = 1.0; }},
    {"mscale", "llama_yarn_mscale", [](Json& c) { c["rope_scaling"]["mscale"] = 1.1; }},
    {"beta_fast", "llama_yarn_mscale", [](Json& c) { c["rope_scaling"]["beta_fast"] = 4; }},
    {"beta_slow", "llama_yarn_mscale", [](Json& c) { c["rope_scaling"]["beta_slow"] = 1; }},
    {"untruncated", "llama_yarn_mscale", [](Json& c) { c["rope_scaling"]["truncate"] = false; }},
    {"epsilon of GPT-2", "gpt2", [](Json& c) { c["layer_norm_epsilon"] = 1.1e-5; }},
    {"relu for gelu", "gpt2", [](Json& c) { c["activation_function"] = "relu"; }},
    {"gelu for its tanh", "gpt2", [](Json& c) { c["activation_function"] = "gelu"; }},
    {"gelu's tanh for gelu", "neox", [](Json& c) { c["hidden_act"] = "gelu_new"; }},
    {"silu for relu", "opt", [](Json& c) { c["activation_function"] = "silu"; }},
    {"serial", "neox", [](Json& c) { c["use_parallel_residual"] = false; }},
    {"parallel", "neox_serial", [](Json& c) { c["use_parallel_residual"] = true; }},
    {"rotated share", "neox", [](Json& c) { c["rotary_pct"] = 0.5; }},
    {"theta of NeoX", "neox", [](Json& c) { c["rotary_emb_base"] = 10100; }},
    {"no bias in Falcon", "falcon_serial", [](Json& c) { c["bias"] = false; }},
    {"no bias in OPT", "opt", [](Json& c) { c["enable_bias"] = false; }},
    {"no bias in StarCoder2", "starcoder2", [](Json& c) { c["use_bias"] = false; }},
    {"window of StarCoder2", "starcoder2", [](Json& c) { c["sliding_window"] = 61; }},
    {"rotated share of Phi", "phi", [](Json& c) { c["partial_rotary_factor"] = 0.4375; }},
    {"experts not normed", "qwen3_moe", [](Json& c) { c["norm_topk_prob"] = false; }},
    {"experts normed", "qwen2_moe", [](Json& c) { c["norm_topk_prob"] = true; }},
    {"an expert less", "mixtral", [](Json& c) { c["num_experts_per_tok"] = 1; }},
    {"an expert more", "qwen2_moe", [](Json& c) { c["num_experts_per_tok"] = 4; }},
    {"tied", "mistral", [](Json& c) { c["tie_word_embeddings"] = true; }},
    {"steeper biases", "mpt", [](Json& c) { c["attn_config"]["alibi_bias_max"] = 8.1; }},
    {"scale of scores in MPT", "mpt", [](Json& c) { c["attn_config"]["softmax_scale"] = 0.18; }},
    {"epsilon of BLOOM", "bloom", [](Json& c) { c["layer_norm_epsilon"] = 1.1e-5; }},
    {"rotated Falcon", "falcon_rw", [](Json& c) { c["alibi"] = false; }},
    {"another number of heads", "mpt", [](Json& c) { c["n_heads"] = 3; }},
    {"fewer keys in a layer", "nemotron_nas",
     [](Json& c) {  // whose tensors are there under other names: nothing else may notice
       c["block_configs"][3]["attention"]["replace_with_linear"] = false;
       c["block_configs"][3]["attention"]["no_op"] = true;
     }},
    {"a layer without its MLP", "nemotron_nas",
     [](Json& c) { c["block_configs"][0]["ffn"]["no_op"] = true; }},
    {"a layer without its matrix", "nemotron_nas",
     [](Json& c) {
       c["block_configs"][4]["ffn"]["replace_with_linear"] = false;
       c["block_configs"][4]["ffn"]["no_op"] = true;
     }},
    {"no norm of queries and keys in OpenELM", "openelm",
     [](Json& c) { c["normalize_qk_projections"] = false; }},
    {"theta of OpenELM", "openelm", [](Json& c) { c["rope_freq_constant"] = 10100; }},
};

TEST(GoldenMutants, ConfigMistakesAreNoticed) {
  for (const ConfigMutant& m : kConfigMutants) {
    const float worst = worst_with(m.golden, m.change);
    std::printf("%s: %.2g of the range\n", m.what, worst);
    EXPECT_GT(worst, kF32Bound) << m.what;
  }
}

// Query head h reading KV head h % kv_heads is the right model on weights whose heads are permuted.
TEST(GoldenMutants, HeadMappingIsNoticed) {
  const GoldenCase golden("llama3_gqa");
  const int heads = golden.json["config"]["num_attention_heads"];
  const int kv_heads = golden.json["config"]["num_key_value_heads"];
  const int dim = golden.json["config"]["head_dim"];
  const auto source = [&](int h) {  // of the h-th head in the permuted order
    const int group = heads / kv_heads;
    return h / group + h % group * kv_heads;
  };
  const auto edit = [&](const std::string& name, int64_t columns, Values& v) {
    const Values old = v;
    if (name.ends_with("q_proj.weight")) {
      for (size_t i = 0; i < v.size(); ++i) {
        const auto row = int64_t(i) / columns;
        v[i] = old[(source(int(row / dim)) * dim + row % dim) * columns + int64_t(i) % columns];
      }
    } else if (name.ends_with("o_proj.weight")) {
      for (size_t i = 0; i < v.size(); ++i) {
        const auto column = int64_t(i) % columns;
        v[i] = old[int64_t(i) - column + source(int(column / dim)) * dim + column % dim];
      }
    }
  };
  EXPECT_GT(worst_with("llama3_gqa", {}, edit), kF32Bound);
}

TEST(GoldenMutants, SwappedNormsAreNoticed) {
  const GoldenCase golden("qwen3_gqa");
  const auto edit = [&](const std::string& name, int64_t, Values& v) {
    for (const Json& recipe : golden.json["tensors"]) {
      std::string other = recipe["name"];
      if (const size_t at = other.find("q_norm"); at != std::string::npos) {
        other[at] = 'k';
        if (other == name) v = golden_weights(golden.json["seed"], recipe);
      }
    }
  };
  EXPECT_GT(worst_with("qwen3_gqa", {}, edit), kF32Bound);
}

// The device's ops, but q/k norm comes after the rotation.
class LateNormOps final : public Ops {
 public:
  explicit LateNormOps(Ops& ops) : ops_(ops) {}
  DType act_dtype() const override { return ops_.act_dtype(); }
  DType weight_dtype(DType wanted) const override { return ops_.weight_dtype(wanted); }
  DType kv_dtype(DType weights) const override { return ops_.kv_dtype(weights); }
  bool keeps_kv_as(DType t) const override { return ops_.keeps_kv_as(t); }
  size_t weight_bytes(DType t, int64_t o, int64_t i) const override {
    return ops_.weight_bytes(t, o, i);
  }
  Weight make_weight(void* m, DType t, int64_t o, int64_t i) override {
    return ops_.make_weight(m, t, o, i);
  }
  void pack_rows(const Weight& w, int64_t r, const Tensor& s, const Tensor& scale) override {
    ops_.pack_rows(w, r, s, scale);
  }
  void embed(Tensor o, const Weight& t, Tensor i) override { ops_.embed(o, t, i); }
  void matmul(Tensor o, Tensor x, const Weight& w) override { ops_.matmul(o, x, w); }
  void rms_norm(Tensor o, Tensor x, Tensor w, float e) override { ops_.rms_norm(o, x, w, e); }
  void layer_norm(Tensor o, Tensor x, Tensor w, Tensor b, float e) override {
    ops_.layer_norm(o, x, w, b, e);
  }
  void add(Tensor o, Tensor a, Tensor b) override { ops_.add(o, a, b); }
  void silu_mul(Tensor o, Tensor g) override { ops_.silu_mul(o, g); }
  void gelu_mul(Tensor o, Tensor g) override { ops_.gelu_mul(o, g); }
  void activate(Tensor x, Activation a) override { ops_.activate(x, a); }
  void scale(Tensor x, float f, float c) override { ops_.scale(x, f, c); }
  void rope(Tensor x, Tensor p, Tensor c) override { ops_.rope(x, p, c); }
  void write_kv(KvView c, Tensor k, Tensor v, Tensor s) override { ops_.write_kv(c, k, v, s); }
  void attention(Tensor o, Tensor q, KvView c, const AttnBatch& b, const AttnParams& p) override {
    ops_.attention(o, q, c, b, p);
  }
  void route(Tensor e, Tensor w, Tensor l, bool n) override { ops_.route(e, w, l, n); }
  void expert_matmul(Tensor o, Tensor x, const Weight& w, Tensor e) override {
    ops_.expert_matmul(o, x, w, e);
  }
  void mix_rows(Tensor o, Tensor x, Tensor w) override { ops_.mix_rows(o, x, w); }
  void add_gated(Tensor o, Tensor x, Tensor g) override { ops_.add_gated(o, x, g); }
  void gather_rows(Tensor o, Tensor x, Tensor r) override { ops_.gather_rows(o, x, r); }
  void move_tokens(Tensor d, Tensor to, Tensor s, Tensor f) override {
    ops_.move_tokens(d, to, s, f);
  }
  void sample(const SampleOut& o, Tensor l, const SampleBatch& b) override { ops_.sample(o, l, b); }
  void token_logprobs(const SampleOut& o, Tensor l, Tensor t, int n) override {
    ops_.token_logprobs(o, l, t, n);
  }
  void qkv_rope_write(Tensor qkv, const QkvParams& p, Tensor positions, KvView cache,
                      Tensor slots) override {
    const int64_t q_cols = int64_t(p.num_heads) * p.head_dim;
    const int64_t kv_cols = int64_t(p.num_kv_heads) * p.head_dim;
    const Tensor q = qkv.cols(0, q_cols).heads(p.head_dim);
    const Tensor k = qkv.cols(q_cols, kv_cols).heads(p.head_dim);
    rope(q, positions, p.cos_sin);
    rope(k, positions, p.cos_sin);
    if (p.q_norm) rms_norm(q, q, p.q_norm, p.eps);
    if (p.k_norm) rms_norm(k, k, p.k_norm, p.eps);
    write_kv(cache, k, qkv.cols(q_cols + kv_cols, kv_cols).heads(p.head_dim), slots);
  }

 private:
  Ops& ops_;
};

TEST(GoldenMutants, NormAfterTheRotationIsNoticed) {
  for (const char* name : {"qwen3_gqa", "qwen3_tied"}) {
    const GoldenCase golden(name);
    LoadedCase run(golden, "BF16", "f32", DType::f32);
    ASSERT_TRUE(run.ready());
    LateNormOps late(run.device().ops());
    EXPECT_GT(run.worst(kMaxTokens, &late), kF32Bound);
    EXPECT_LT(run.worst(kMaxTokens, nullptr), kF32Bound);
  }
}

}  // namespace
}  // namespace sluice
