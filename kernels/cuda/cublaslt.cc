#include "kernels/cuda/cublaslt.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include "kernels/cuda/libraries.h"

namespace sluice::cuda {
namespace {

#define SLUICE_STRING_OF(x) #x
#define SLUICE_STRING(x) SLUICE_STRING_OF(x)
constexpr const char* kName = "libcublasLt.so." SLUICE_STRING(CUBLAS_VER_MAJOR);

// The activations that the library knows: its GELU is the approximation with tanh.
bool has(std::optional<Activation> activation) {
  return !activation || activation == Activation::relu || activation == Activation::gelu_tanh;
}

cublasLtEpilogue_t epilogue_of(const Epilogue& e) {
  if (!e.activation) return e.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  if (*e.activation == Activation::relu)
    return e.bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
  return e.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
}

cudaDataType_t type_of(DType t) {
  switch (t) {
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::f16:
      return CUDA_R_16F;
    case DType::fp8_e4m3:
      return CUDA_R_8F_E4M3;
    default:
      return CUDA_R_32F;
  }
}

}  // namespace

struct CublasLt::Library {
  void* handle = nullptr;
  std::function<void(const std::string&)> on_failure;
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtGetVersion) version = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmulAlgoCheck) algo_check = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;

  // False: a function is missing.
  bool load() {
    const auto get = [this](auto& to, const char* name) {
      to = reinterpret_cast<std::remove_reference_t<decltype(to)>>(dlsym(handle, name));
      return to != nullptr;
    };
    return get(create, "cublasLtCreate") && get(destroy, "cublasLtDestroy") &&
           get(version, "cublasLtGetVersion") && get(desc_create, "cublasLtMatmulDescCreate") &&
           get(desc_destroy, "cublasLtMatmulDescDestroy") &&
           get(desc_set, "cublasLtMatmulDescSetAttribute") &&
           get(layout_create, "cublasLtMatrixLayoutCreate") &&
           get(layout_destroy, "cublasLtMatrixLayoutDestroy") &&
           get(preference_create, "cublasLtMatmulPreferenceCreate") &&
           get(preference_destroy, "cublasLtMatmulPreferenceDestroy") &&
           get(preference_set, "cublasLtMatmulPreferenceSetAttribute") &&
           get(heuristic, "cublasLtMatmulAlgoGetHeuristic") &&
           get(algo_check, "cublasLtMatmulAlgoCheck") && get(matmul, "cublasLtMatmul");
  }
  void check(cublasStatus_t status, const char* call) const {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    fail(fmt::format("cuBLASLt: {} failed with status {}", call, int(status)));
  }
  [[noreturn]] void fail(const std::string& what) const {
    if (on_failure) on_failure(what);
    std::fprintf(stderr, "%s\n", what.c_str());  // while it is opened
    std::_Exit(1);
  }
};

struct CublasLt::Plan {
  const Library& library;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, out = nullptr;
  cublasLtMatmulAlgo_t algo{};
  bool bias = false, activation = false;  // what of the epilogue is in it

  explicit Plan(const Library& l) : library(l) {}
  ~Plan() {
    for (const cublasLtMatrixLayout_t layout : {w, x, out}) library.layout_destroy(layout);
    library.desc_destroy(desc);
  }
};

absl::StatusOr<std::unique_ptr<CublasLt>> CublasLt::open(const std::string& folder) {
  auto library = std::make_unique<Library>();
  for (const std::string& file : library_candidates(kName, folder)) {
    library->handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library->handle != nullptr) break;
  }
  if (library->handle == nullptr)
    return not_found("{} was not found (device.libraries names the folder to look into)", kName);
  if (!library->load()) return unimplemented("{} is not the library of that name", kName);
  std::unique_ptr<CublasLt> lt(new CublasLt);
  const cublasStatus_t status = library->create(&lt->handle_);
  if (status != CUBLAS_STATUS_SUCCESS)
    return unavailable("{} does not start: status {}", kName, int(status));
  lt->library_ = std::move(library);
  return lt;
}

CublasLt::~CublasLt() {
  plans_.clear();
  if (handle_ != nullptr) library_->destroy(handle_);
}

void CublasLt::on_failure(std::function<void(const std::string&)> f) {
  library_->on_failure = std::move(f);
}

void CublasLt::set_pointer(const Plan& plan, cublasLtMatmulDescAttributes_t name,
                           const Tensor& t) const {
  const void* value = t.data;
  library_->check(library_->desc_set(plan.desc, name, &value, sizeof value),
                  "MatmulDescSetAttribute");
}

// Its w is the library's A.
void CublasLt::set_scales(const Plan& plan, const Product& product) const {
  set_pointer(plan, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, product.w_scale);
  set_pointer(plan, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, product.x_scale);
}

size_t CublasLt::version() const { return library_->version(); }

bool CublasLt::has_fp8_products() const {
  // Nothing is read: a plan only looks at shapes and alignments.
  const auto somewhere = [](DType t, std::initializer_list<int64_t> shape) {
    return Tensor::of(reinterpret_cast<void*>(uintptr_t{4096}), t, shape);
  };
  const Tensor codes = somewhere(DType::fp8_e4m3, {64, 64}), scale = somewhere(DType::f32, {64});
  return num_ways({somewhere(DType::bf16, {64, 64}), codes, codes, scale, scale}) > 0;
}

// In the library's words, which count columns first: out^T [m, n] = w [k, m]^T * x^T [k, n].
std::unique_ptr<CublasLt::Plan> CublasLt::describe(const Product& product,
                                                   const Epilogue& epilogue) const {
  const Library& l = *library_;
  auto plan = std::make_unique<Plan>(l);
  l.check(l.desc_create(&plan->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "MatmulDescCreate");
  const auto set = [&](cublasLtMatmulDescAttributes_t name, const auto& value) {
    l.check(l.desc_set(plan->desc, name, &value, sizeof value), "MatmulDescSetAttribute");
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  if (product.w_scale) {
    for (const auto mode : {CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_DESC_B_SCALE_MODE})
      set(mode, int32_t{CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F});
    set_scales(*plan, product);
  }
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(epilogue));
  if (epilogue.bias) {
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(epilogue.bias.dtype));
    set_pointer(*plan, CUBLASLT_MATMUL_DESC_BIAS_POINTER, epilogue.bias);
  }
  plan->bias = bool(epilogue.bias), plan->activation = epilogue.activation.has_value();
  const auto layout = [&](cublasLtMatrixLayout_t* to, const Tensor& t) {
    l.check(l.layout_create(to, type_of(t.dtype), uint64_t(t.shape[1]), uint64_t(t.shape[0]),
                            t.stride[0]),
            "MatrixLayoutCreate");
  };
  layout(&plan->w, product.w), layout(&plan->x, product.x), layout(&plan->out, product.out);
  return plan;
}

// The best guess first; always as many, so that a Way means the same at the next start.
CublasLt::Algorithms CublasLt::proposed(const Plan& plan) const {
  const Library& l = *library_;
  cublasLtMatmulPreference_t preference = nullptr;
  l.check(l.preference_create(&preference), "MatmulPreferenceCreate");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t name, const auto& value) {
    l.check(l.preference_set(preference, name, &value, sizeof value),
            "MatmulPreferenceSetAttribute");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, size_t{kWorkspaceBytes});
  for (const auto operand :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    prefer(operand, uint32_t{64});  // of scratch; A are weights
  Algorithms all(8);
  int found = 0;
  const cublasStatus_t status = l.heuristic(handle_, plan.desc, plan.w, plan.x, plan.out, plan.out,
                                            preference, int(all.size()), all.data(), &found);
  l.preference_destroy(preference);
  // It says either of what it does not have.
  if (status != CUBLAS_STATUS_NOT_SUPPORTED && status != CUBLAS_STATUS_INVALID_VALUE)
    l.check(status, "MatmulAlgoGetHeuristic");
  all.resize(status == CUBLAS_STATUS_SUCCESS ? size_t(found) : 0);
  std::erase_if(all, [](const auto& a) { return a.state != CUBLAS_STATUS_SUCCESS; });
  return all;
}

int CublasLt::num_ways(const Product& product) const {
  return int(proposed(*describe(product, {})).size());
}

// False: there is no such algorithm, or it does not do for this product.
bool CublasLt::take(Way way, const Product& product, Plan& plan) const {
  Product measured = product;
  for (Tensor* t : {&measured.x, &measured.out})
    *t = Tensor::of(t->data, t->dtype, {way.rows, t->shape[1]});
  const Algorithms all = proposed(*describe(measured, {}));
  if (way.index >= int(all.size())) return false;
  plan.algo = all[size_t(way.index)].algo;
  cublasLtMatmulHeuristicResult_t needs{};
  return library_->algo_check(handle_, plan.desc, plan.w, plan.x, plan.out, plan.out, &plan.algo,
                              &needs) == CUBLAS_STATUS_SUCCESS &&
         needs.workspaceSize <= kWorkspaceBytes;
}

std::unique_ptr<CublasLt::Plan> CublasLt::make_plan(const Product& product, Epilogue epilogue,
                                                    Way way) const {
  if (!has(epilogue.activation)) epilogue.activation.reset();
  auto plan = describe(product, epilogue);
  if (way.index > 0 && take(way, product, *plan)) return plan;
  const Algorithms all = proposed(*plan);
  if (all.empty()) return epilogue.empty() ? nullptr : make_plan(product, {}, way);
  plan->algo = all[0].algo;
  return plan;
}

cublasStatus_t CublasLt::run(cudaStream_t stream, void* workspace, const Product& product,
                             const Plan& plan) const {
  const float one = 1, zero = 0;
  void* out = product.out.data;
  return library_->matmul(handle_, plan.desc, &one, product.w.data, plan.w, product.x.data, plan.x,
                          &zero, out, plan.out, out, plan.out, &plan.algo, workspace,
                          kWorkspaceBytes, stream);
}

Epilogue CublasLt::matmul(cudaStream_t stream, void* workspace, const Product& product,
                          const Epilogue& epilogue, Way way) {
  const auto& [out, x, w, x_scale, w_scale] = product;
  const Key key{x.shape[0],
                w.shape[0],
                w.shape[1],
                x.stride[0],
                out.stride[0],
                int64_t(x.dtype),
                int64_t(out.dtype),
                int64_t(bool(epilogue.bias)),
                epilogue.activation ? int64_t(*epilogue.activation) : -1,
                way.index > 0 ? way.rows : 0,
                way.index};
  std::unique_ptr<Plan>& plan = plans_[key];
  cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
  if (plan != nullptr) {
    if (w_scale) set_scales(*plan, product);
    if (plan->bias) set_pointer(*plan, CUBLASLT_MATMUL_DESC_BIAS_POINTER, epilogue.bias);
    status = run(stream, workspace, product, *plan);
  }
  // What it proposed and checked it may still refuse.
  const std::pair<Epilogue, Way> attempts[] = {{epilogue, way}, {epilogue, {}}, {{}, {}}};
  for (const auto& [with, in_way] : attempts) {
    if (status == CUBLAS_STATUS_SUCCESS) break;
    plan = make_plan(product, with, in_way);
    if (plan == nullptr)
      library_->fail(fmt::format("cuBLASLt: no algorithm for {} [{}, {}] times {} [{}, {}]",
                                 name_of(x.dtype), x.shape[0], x.shape[1], name_of(w.dtype),
                                 w.shape[0], w.shape[1]));
    status = run(stream, workspace, product, *plan);
  }
  library_->check(status, "Matmul");
  Epilogue left = epilogue;
  if (plan->bias) left.bias = {};
  if (plan->activation) left.activation.reset();
  return left;
}

}  // namespace sluice::cuda
