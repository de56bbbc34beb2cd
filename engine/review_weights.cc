#include <absl/container/flat_hash_set.h>

#include <algorithm>

#include "engine/weights.h"

namespace sluice {
namespace {

using Use = LinearSpec::Use;
using Group = WeightReview::Group;

bool is_float(const std::optional<DType>& t) {
  return t == DType::f32 || t == DType::f16 || t == DType::bf16;
}

// "layer.weight" -> "layer.weight_scale".
std::string beside(const std::string& weight, std::string_view suffix) {
  std::string_view layer = weight;
  if (layer.ends_with(".weight")) layer.remove_suffix(std::string_view("weight").size());
  return std::string(layer) + std::string(suffix);
}

bool is_of_one_element(const std::vector<int64_t>& shape) {
  return shape.empty() || shape == std::vector<int64_t>{1} || shape == std::vector<int64_t>{1, 1};
}

class Reviewer {
 public:
  explicit Reviewer(const Safetensors& stored) : stored_(stored) {}

  void check(const LinearSpec& linear) {
    Group& group = group_of(linear.use);
    for (const LinearPart& part : linear.parts) {
      std::vector<int64_t> shape = {part.rows_stored(), linear.in_features};
      if (part.transposed) std::swap(shape[0], shape[1]);
      const StoredTensor* weight = check(part.weight, shape, linear.may_be_fp8(), group);
      if (weight && weight->dtype == DType::fp8_e4m3) check_scale(*weight, part, group);
      if (!part.bias.empty()) check(part.bias, {part.rows_stored()}, false, group);
    }
  }
  void check(const VectorSpec& v) { check(v.name, {v.size}, false, norms_); }
  void check(const ScaleSpec& s) {
    wanted_.insert(s.names.begin(), s.names.end());
    const StoredTensor* t = find_scale(stored_, s);
    if (!t) return;
    if (!is_of_one_element(t->shape) || !is_float(t->dtype))
      fail("{}: tensor {}: {} {}, expected one F32, F16 or BF16", t->file, t->name, t->dtype_name,
           shape_text(t->shape));
    attention_.bytes += t->bytes;
  }

  WeightReview finish() {
    for (const StoredTensor& t : stored_.tensors())
      // Old exports store the rotary frequencies, which the config determines.
      if (!wanted_.contains(t.name) && !t.name.ends_with(".rotary_emb.inv_freq"))
        result_.unused.push_back(t.name);
    for (Group* group : {&embeddings_, &attention_, &mlp_, &experts_, &norms_, &head_})
      if (group->tensors > 0) result_.groups.push_back(std::move(*group));
    return std::move(result_);
  }

 private:
  Group& group_of(Use use) {
    switch (use) {
      case Use::table:
        return embeddings_;
      case Use::attention:
        return attention_;
      case Use::mlp:
        return mlp_;
      case Use::router:
      case Use::experts:
        return experts_;
      case Use::head:
        return head_;
    }
    return mlp_;
  }

  template <class... Args>
  void fail(fmt::format_string<Args...> format, Args&&... args) {
    result_.problems.push_back(invalid_argument(format, std::forward<Args>(args)...));
  }

  // Counts it in `group`. Null: it is not there.
  const StoredTensor* check(const std::string& name, const std::vector<int64_t>& shape,
                            bool may_be_fp8, Group& group) {
    const bool first = wanted_.insert(name).second;  // parts may share a tensor
    const StoredTensor* t = stored_.find(name);
    if (!first || (!t && stored_.is_lost(name))) return t;
    if (!t) {
      fail("{}: tensor {} {} is missing", stored_.source(), name, shape_text(shape));
      return t;
    }
    if (t->shape != shape) {
      fail("{}: tensor {}: shape {}, expected {}", t->file, name, shape_text(t->shape),
           shape_text(shape));
    } else if (!is_float(t->dtype) && !(may_be_fp8 && t->dtype == DType::fp8_e4m3)) {
      fail("{}: tensor {}: dtype {}, expected {}", t->file, name, t->dtype_name,
           may_be_fp8 ? "F32, F16, BF16 or F8_E4M3" : "F32, F16 or BF16");
    }
    int64_t parameters = 1;
    for (const int64_t size : t->shape) parameters *= size;
    ++group.tensors;
    group.parameters += parameters;
    group.bytes += t->bytes;
    group.dtypes.insert(t->dtype_name);
    return t;
  }

  // Of one element, or of one a row.
  void check_scale(const StoredTensor& weight, const LinearPart& part, Group& group) {
    const std::string name = beside(part.weight, "weight_scale");
    wanted_.insert(beside(part.weight, "input_scale"));
    if (!wanted_.insert(name).second) return;
    const StoredTensor* scale = stored_.find(name);
    const StoredTensor* of_blocks = stored_.find(name + "_inv");
    if (!scale && of_blocks)
      return fail("{}: tensor {}_inv: scales of blocks are not supported", of_blocks->file, name);
    if (!scale && stored_.is_lost(name)) return;
    if (!scale)
      return fail("{}: tensor {}, which F8_E4M3 {} needs, is missing", weight.file, name,
                  part.weight);
    group.bytes += scale->bytes;
    const std::vector<int64_t>& shape = scale->shape;
    const bool one = is_of_one_element(shape);
    const int64_t rows = part.rows_stored();
    if (!one && shape != std::vector<int64_t>{rows} && shape != std::vector<int64_t>{rows, 1}) {
      fail("{}: tensor {}: shape {}, expected [1] or [{}, 1]", scale->file, name, shape_text(shape),
           rows);
    } else if (!is_float(scale->dtype)) {
      fail("{}: tensor {}: dtype {}, expected F32, F16 or BF16", scale->file, name,
           scale->dtype_name);
    }
  }

  const Safetensors& stored_;
  WeightReview result_;
  absl::flat_hash_set<std::string> wanted_;
  Group embeddings_{"embeddings"}, attention_{"attention"}, mlp_{"MLP"}, experts_{"experts"},
      norms_{"norms"}, head_{"output head"};
};

}  // namespace

WeightReview review_weights(const WeightList& list, const Safetensors& stored) {
  Reviewer reviewer(stored);
  for (const LinearSpec& linear : list.linears) reviewer.check(linear);
  for (const VectorSpec& v : list.vectors) reviewer.check(v);
  for (const ScaleSpec& s : list.scales) reviewer.check(s);
  return reviewer.finish();
}

const StoredTensor* scale_of(const Safetensors& stored, const StoredTensor& weight) {
  return weight.dtype == DType::fp8_e4m3 ? stored.find(beside(weight.name, "weight_scale"))
                                         : nullptr;
}

const StoredTensor* find_scale(const Safetensors& stored, const ScaleSpec& spec) {
  for (const std::string& name : spec.names)
    if (const StoredTensor* t = stored.find(name)) return t;
  return nullptr;
}

}  // namespace sluice
