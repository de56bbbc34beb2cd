// Our models against transformers on the fixtures of make_fixtures.py, and mutants of them that
// the same comparison must refuse.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/device.h"
#include "tests/golden/models/golden_model.h"
#include "tests/golden/models/model_driver.h"

namespace sluice {
namespace {

constexpr float kF32Bound = 1e-4f, kBf16Bound = 2e-2f, kF16Bound = 1e-3f;
constexpr int kMaxTokens = 320;

const char* const kCases[] = {
    "llama3_gqa", "llama3_tied", "llama2_bias", "qwen3_tied", "qwen3_gqa", "qwen2", "mistral",
    // windows
    "mistral_window", "qwen2_window", "gemma2", "gemma3", "gemma3_types",
    // families
    "gemma", "phi3_long", "phi3_short", "phi4_partial", "olmo2", "granite",
    // rotations
    "llama_linear", "llama_dynamic", "qwen2_yarn", "llama_yarn_mscale",
    // LayerNorm, and MLPs without a gate
    "gpt2", "neox", "neox_serial", "opt", "falcon_7b", "falcon_40b", "falcon_serial", "starcoder2",
    "phi",
    // experts
    "mixtral", "qwen2_moe", "qwen3_moe",
    // linear biases
    "falcon_rw", "bloom", "mpt",
    // layers with sizes of their own
    "llama_pruned", "decilm_7b", "nemotron_nas", "openelm"};

// A fixture loaded on the CPU, and its comparison.
class LoadedCase {
 public:
  LoadedCase(const GoldenCase& golden, const std::string& stored, const std::string& dtype,
             DType kv_dtype, const Json& config, const TensorEdit& edit = {},
             const std::string& isa = "auto")
      : golden_(golden), kv_dtype_(kv_dtype) {
    write_golden_model(golden, dir_.path(), stored, config, edit);
    auto device = make_cpu_device({.threads = 2, .isa = isa});
    if (!device.ok()) {
      unavailable_ = std::string(message_of(device.status()));
      return;
    }
    device_ = *std::move(device);
    Config::Model options;
    options.path = dir_.path();
    options.dtype = dtype;
    options.max_model_len = golden.json.value("max_model_len", 0);
    auto model = load_model(options, *device_, 2);
    if (!model.ok()) {
      ADD_FAILURE() << message_of(model.status());
      return;
    }
    model_ = *std::move(model);
  }
  LoadedCase(const GoldenCase& golden, const std::string& stored, const std::string& dtype,
             DType kv_dtype)
      : LoadedCase(golden, stored, dtype, kv_dtype, golden.json["config"]) {}

  bool ready() const { return model_ != nullptr; }
  const std::string& unavailable() const { return unavailable_; }
  Device& device() { return *device_; }
  Model& model() { return *model_; }

  // All logits of a prompt computed in chunks of `chunk` tokens.
  std::vector<float> logits_of(const GoldenPrompt& prompt, int chunk, Ops* ops = nullptr) {
    ModelDriver driver(*device_, *model_, kv_dtype_, 1, kMaxTokens, ops);
    std::vector<float> all;
    for (size_t at = 0; at < prompt.tokens.size(); at += chunk) {
      const size_t count = std::min<size_t>(chunk, prompt.tokens.size() - at);
      const DriverRow row{0, std::span(prompt.tokens).subspan(at, count)};
      const Tensor out = driver.step({&row, 1});
      all.insert(all.end(), out.as<float>(), out.as<float>() + out.size());
    }
    return all;
  }

  // By compared position, ascending: its largest difference from the reference, as a share of the
  // reference's range.
  std::vector<float> errors(int chunk = kMaxTokens, Ops* ops = nullptr) {
    std::vector<float> errors;
    for (const GoldenPrompt& prompt : golden_.prompts) {
      const std::vector<float> got = logits_of(prompt, chunk, ops);
      for (size_t i = 0; i < prompt.positions.size(); ++i) {
        float worst = 0;
        for (int v = 0; v < golden_.vocab; ++v) {
          const float difference = std::fabs(got[size_t(prompt.positions[i]) * golden_.vocab + v] -
                                             prompt.logits[i * golden_.vocab + v]);
          if (!(difference <= worst)) worst = std::isnan(difference) ? HUGE_VALF : difference;
        }
        errors.push_back(worst / golden_.range);
      }
    }
    std::sort(errors.begin(), errors.end());
    return errors;
  }
  float worst(int chunk = kMaxTokens, Ops* ops = nullptr) { return errors(chunk, ops).back(); }

 private:
  const GoldenCase& golden_;
  const DType kv_dtype_;
  TempDir dir_;
  std::string unavailable_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Model> model_;
};

class GoldenModel : public testing::TestWithParam<const char*> {};

// Of families whose layers Fp8Tensor knows by their names, fused ones among them.
class GoldenFp8 : public testing::TestWithParam<const char*> {};

// An fp8 checkpoint, and one that is quantised at load, against the same numbers widened by hand
// and stored as f32.
TEST_P(GoldenFp8, IsTheWidenedModel) {
  const GoldenCase golden(GetParam());
  const Json& plain = golden.json["config"];
  const Json config = with_fp8(plain);
  for (const bool at_load : {false, true}) {
    const TensorEdit widen = [&](const std::string& name, int64_t columns, Values& v) {
      if (!Fp8Tensor::is_wanted(name)) return;
      const Fp8Tensor fp8(name, columns, v, !at_load);
      for (size_t i = 0; i < v.size(); ++i) v[i] = fp8.value(i);
    };
    for (const char* isa : {"portable", "avx2", "avx512", "avx512bf16", "amx"}) {
      const std::string stored = at_load ? "F32" : "F8_E4M3", dtype = at_load ? "fp8" : "auto";
      LoadedCase fp8(golden, stored, dtype, DType::f32, at_load ? plain : config, {}, isa);
      if (!fp8.unavailable().empty()) continue;
      LoadedCase wide(golden, "F32", "f32", DType::f32, plain, widen, isa);
      ASSERT_TRUE(fp8.ready() && wide.ready());
      EXPECT_EQ(fp8.model().weight_dtype(), DType::fp8_e4m3);
      EXPECT_LT(fp8.model().weight_bytes(), wide.model().weight_bytes());
      const GoldenPrompt& prompt = golden.prompts.back();
      const std::vector<float> got = fp8.logits_of(prompt, kMaxTokens);
      const std::vector<float> want = wide.logits_of(prompt, kMaxTokens);
      std::vector<float> errors(prompt.tokens.size());
      for (size_t i = 0; i < got.size(); ++i) {
        float& error = errors[i / size_t(golden.vocab)];
        error = std::max(error, std::fabs(got[i] - want[i]) / golden.range);
      }
      std::sort(errors.begin(), errors.end());
      // AMX rounds activations, the other one only for a head, or a router, that is bf16; for
      // experts see LogitsInBf16.
      const std::string_view set = isa;
      const bool rounds = set == "amx" || (!at_load && set == "avx512bf16");
      const bool experts = rounds && fp8.model().config().num_experts > 0;
      const float error = experts ? errors[errors.size() / 2] : errors.back();
      std::printf("%s %s fp8%s: %.2g of the range\n", GetParam(), isa, at_load ? " at load" : "",
                  error);
      EXPECT_LT(error, rounds ? kBf16Bound : kF32Bound) << isa;
      EXPECT_EQ(got, fp8.logits_of(prompt, 7));
    }
  }
}

TEST_P(GoldenModel, LogitsInF32OnEveryInstructionSet) {
  const GoldenCase golden(GetParam());
  int ran = 0;
  for (const char* isa : {"portable", "avx2", "avx512", "avx512bf16", "amx"}) {
    LoadedCase run(golden, "BF16", "f32", DType::f32, golden.json["config"], {}, isa);
    if (!run.unavailable().empty()) {
      std::printf("not run: %s\n", run.unavailable().c_str());
      continue;
    }
    ASSERT_TRUE(run.ready());
    EXPECT_EQ(run.model().weight_dtype(), DType::f32);
    const float worst = run.worst();
    std::printf("%s %s f32: %.2g of the range\n", GetParam(), isa, worst);
    EXPECT_LT(worst, kF32Bound) << isa;
    ++ran;
  }
  EXPECT_GE(ran, 1);
}

TEST_P(GoldenModel, LogitsInBf16) {
  const GoldenCase golden(GetParam());
  LoadedCase run(golden, "BF16", "auto", DType::bf16);
  ASSERT_TRUE(run.ready());
  EXPECT_EQ(run.model().weight_dtype(), DType::bf16);
  const std::vector<float> errors = run.errors();
  // Where activations are rounded, too (avx512bf16, amx), a token near a tie between experts may go
  // to another one, and whatever attends to it sees that: experts are judged by the median
  // position.
  const bool experts = run.model().config().num_experts > 0;
  const float error = experts ? errors[errors.size() / 2] : errors.back();
  std::printf("%s bf16: %.2g of the range at worst, %.2g in the median\n", GetParam(),
              errors.back(), errors[errors.size() / 2]);
  EXPECT_LT(error, kBf16Bound);
}

TEST_P(GoldenModel, LogitsInF16) {
  const GoldenCase golden(GetParam());
  LoadedCase run(golden, "F16", "auto", DType::f32);
  ASSERT_TRUE(run.ready());
  EXPECT_EQ(run.model().weight_dtype(), DType::f16);
  const float worst = run.worst();
  std::printf("%s f16: %.2g of the range\n", GetParam(), worst);
  EXPECT_LT(worst, kF16Bound);
}

TEST_P(GoldenModel, ChunksAndBatchesGiveTheSameBits) {
  const GoldenCase golden(GetParam());
  for (const DType kv : {DType::f32, DType::bf16}) {
    LoadedCase run(golden, "BF16", kv == DType::f32 ? "f32" : "bf16", kv);
    ASSERT_TRUE(run.ready());
    const GoldenPrompt& prompt = golden.prompts[1];
    const std::vector<float> whole = run.logits_of(prompt, kMaxTokens);
    for (const int chunk : {1, 7, 16, 33, 64}) {
      const std::vector<float> chunked = run.logits_of(prompt, chunk);
      EXPECT_EQ(std::memcmp(whole.data(), chunked.data(), whole.size() * sizeof(float)), 0)
          << "chunks of " << chunk;
    }
    // Beside another sequence: the short prompt's rows first, then the long one's.
    ModelDriver driver(run.device(), run.model(), kv, 2, kMaxTokens);
    const DriverRow rows[] = {{1, golden.prompts[0].tokens}, {0, prompt.tokens}};
    const Tensor both = driver.step(rows);
    EXPECT_EQ(std::memcmp(whole.data(), both.row<float>(golden.prompts[0].tokens.size()),
                          whole.size() * sizeof(float)),
              0);
  }
}

// Each step's context is the reference's own, so one near-tie does not end the comparison.
TEST_P(GoldenModel, GreedyTokens) {
  const GoldenCase golden(GetParam());
  LoadedCase run(golden, "BF16", "f32", DType::f32);
  ASSERT_TRUE(run.ready());
  int compared = 0;
  for (const GoldenPrompt& prompt : golden.prompts) {
    if (prompt.greedy.empty()) continue;
    ASSERT_EQ(prompt.greedy.size(), 64u);
    ModelDriver driver(run.device(), run.model(), DType::f32, 1, kMaxTokens);
    DriverRow row{0, prompt.tokens};
    for (size_t step = 0; step < prompt.greedy.size(); ++step) {
      const Tensor logits = driver.step({&row, 1});
      const float* last = logits.row<float>(logits.shape[0] - 1);
      const auto best = int32_t(std::max_element(last, last + golden.vocab) - last);
      if (prompt.gaps[step] >= 1e-3f) {
        EXPECT_EQ(best, prompt.greedy[step]) << "step " << step;
        ++compared;
      }
      row.tokens = std::span(prompt.greedy).subspan(step, 1);
    }
  }
  EXPECT_GE(compared, 120);
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenModel, testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param); });

INSTANTIATE_TEST_SUITE_P(Cases, GoldenFp8,
                         testing::Values("llama3_gqa", "llama3_tied", "llama2_bias", "qwen3_gqa",
                                         "qwen2", "mistral", "gemma2", "phi3_long", "olmo2",
                                         "granite", "mixtral", "qwen2_moe", "qwen3_moe"),
                         [](const auto& info) { return std::string(info.param); });

// --- mutants: the comparison must notice each of these mistakes ---

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

// The plan is made from the config and headers alone and must be what the load takes.
// The text part of a larger model computes what the model of text does: with older files' names of
// tensors, and with newer ones'.
TEST(GoldenTextPart, IsTheModelAlone) {
  for (const auto& [name, architecture] :
       {std::pair("gemma3", "Gemma3ForConditionalGeneration"),
        std::pair("mistral", "Mistral3ForConditionalGeneration")}) {
    for (const bool older : {true, false}) {
      GoldenCase golden(name);
      for (Json& tensor : golden.json["tensors"]) {
        std::string stored = tensor["name"];
        if (older)
          stored = "language_model." + stored;
        else if (stored.starts_with("model."))
          stored.insert(strlen("model."), "language_model.");
        tensor["stored_as"] = stored;
      }
      golden.json["tensors"].push_back(
          {{"name", "vision_tower.w"}, {"shape", {2, 2}}, {"mean", 0}, {"deviation", 1}});
      Json text = golden.json["config"];
      text.erase("architectures");
      text.erase("model_type");
      const Json config = {{"architectures", {architecture}},
                           {"vision_config", Json::object()},
                           {"eos_token_id", text["eos_token_id"]},
                           {"text_config", text}};
      LoadedCase run(golden, "BF16", "f32", DType::f32, config);
      ASSERT_TRUE(run.ready());
      EXPECT_LT(run.worst(), kF32Bound) << name << older;
    }
  }
}

TEST(GoldenModelPlan, CountsWhatTheLoadTakes) {
  for (const char* name : kCases) {
    const GoldenCase golden(name);
    TempDir dir;
    write_golden_model(golden, dir.path(), "BF16", golden.json["config"]);
    auto device = make_cpu_device({.threads = 1});
    ASSERT_TRUE(device.ok());
    Config::Model options;
    options.path = dir.path();
    options.max_model_len = 100;
    const auto plan = plan_model(options, **device);
    const auto model = load_model(options, **device, 1);
    ASSERT_TRUE(plan.ok() && model.ok());
    EXPECT_EQ((*plan)->weight_bytes(), (*model)->weight_bytes());
    EXPECT_EQ((*plan)->max_len(), 100);
    EXPECT_EQ((*plan)->scratch_bytes(64, 8), (*model)->scratch_bytes(64, 8));
  }
}

}  // namespace
}  // namespace sluice
