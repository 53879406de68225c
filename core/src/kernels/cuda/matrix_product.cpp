#include "kernels/cuda/matrix_product.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <bit>
#include <map>
#include <mutex>
#include <string>

namespace outrider::kernels::cuda {
namespace {

static_assert(sizeof(ProductKernel) == sizeof(cublasLtMatmulAlgo_t));

constexpr int kMostKernels = 16;

/// The functions of the library that LibTorch multiplies with: opened here, never loaded.
struct Library {
  Library() {
    const auto name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
    opened = dlopen(name.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (!opened) return;
    take(create, "cublasLtCreate");
    take(propose, "cublasLtMatmulAlgoGetHeuristic");
    take(multiply, "cublasLtMatmul");
    take(init_product, "cublasLtMatmulDescInit_internal");
    take(set_product, "cublasLtMatmulDescSetAttribute");
    take(init_layout, "cublasLtMatrixLayoutInit_internal");
    take(init_preference, "cublasLtMatmulPreferenceInit_internal");
    take(set_preference, "cublasLtMatmulPreferenceSetAttribute");
  }

  template <class F>
  void take(F*& function, const char* name) {
    function = reinterpret_cast<F*>(dlsym(opened, name));
    if (!function) opened = nullptr;
  }

  void* opened = nullptr;  // null: not to be had
  decltype(cublasLtCreate)* create = nullptr;
  decltype(cublasLtMatmulAlgoGetHeuristic)* propose = nullptr;
  decltype(cublasLtMatmul)* multiply = nullptr;
  decltype(cublasLtMatmulDescInit_internal)* init_product = nullptr;
  decltype(cublasLtMatmulDescSetAttribute)* set_product = nullptr;
  decltype(cublasLtMatrixLayoutInit_internal)* init_layout = nullptr;
  decltype(cublasLtMatmulPreferenceInit_internal)* init_preference = nullptr;
  decltype(cublasLtMatmulPreferenceSetAttribute)* set_preference = nullptr;
};

const Library& library() {
  static const auto& library = *new Library;
  return library;
}

// Of the current device; null where it cannot be made.
cublasLtHandle_t handle() {
  static std::mutex mutex;
  static auto& handles = *new std::map<int, cublasLtHandle_t>;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return nullptr;
  const std::lock_guard lock(mutex);
  const auto [found, is_new] = handles.try_emplace(device, nullptr);
  if (is_new && library().create(&found->second) != CUBLAS_STATUS_SUCCESS) found->second = nullptr;
  return found->second;
}

cudaDataType_t library_type(DataType type) {
  switch (type) {
    case DataType::kHalf:
      return CUDA_R_16F;
    case DataType::kBFloat16:
      return CUDA_R_16BF;
    case DataType::kDouble:
      return CUDA_R_64F;
    case DataType::kFloat:
      break;
  }
  return CUDA_R_32F;
}

/// The product as the library sees it, in column-major order: outᵀ = bᵀ aᵀ.
class Description {
 public:
  explicit Description(const MatrixProduct& p) {
    const auto type = library_type(p.type);
    set(CUBLASLT_MATMUL_DESC_TRANSA, p.b_is_transposed);
    set(CUBLASLT_MATMUL_DESC_TRANSB, p.a_is_transposed);
    lay_out(b, type, p.b_is_transposed ? p.k : p.n, p.b_is_transposed ? p.n : p.k, p.b_stride);
    lay_out(a, type, p.a_is_transposed ? p.m : p.k, p.a_is_transposed ? p.k : p.m, p.a_stride);
    lay_out(out, library_type(p.out_type), p.n, p.m, p.out_stride);
  }

  bool is_good() const { return is_good_; }

  cublasLtMatmulDescOpaque_t product{};
  cublasLtMatrixLayoutOpaque_t a{}, b{}, out{};

 private:
  void note(cublasStatus_t status) { is_good_ = is_good_ && status == CUBLAS_STATUS_SUCCESS; }
  void set(cublasLtMatmulDescAttributes_t attribute, bool is_transposed) {
    const cublasOperation_t operation = is_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    note(library().set_product(&product, attribute, &operation, sizeof operation));
  }
  void lay_out(cublasLtMatrixLayoutOpaque_t& layout, cudaDataType_t type, int64_t rows,
               int64_t columns, int64_t stride) {
    note(library().init_layout(&layout, sizeof layout, type, static_cast<uint64_t>(rows),
                               static_cast<uint64_t>(columns), stride));
  }

  bool is_good_ = library().init_product(&product, sizeof product, CUBLAS_COMPUTE_32F,
                                         CUDA_R_32F) == CUBLAS_STATUS_SUCCESS;
};

}  // namespace

// Without workspace no kernel can divide k.
std::vector<ProductKernel> product_kernels(const MatrixProduct& p) {
  if (!library().opened || !handle()) return {};
  Description description(p);
  cublasLtMatmulPreferenceOpaque_t preference{};
  const size_t workspace = 0;
  if (!description.is_good() ||
      library().init_preference(&preference, sizeof preference) != CUBLAS_STATUS_SUCCESS ||
      library().set_preference(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                               sizeof workspace) != CUBLAS_STATUS_SUCCESS) {
    return {};
  }
  std::array<cublasLtMatmulHeuristicResult_t, kMostKernels> found{};
  int count = 0;
  if (library().propose(handle(), &description.product, &description.b, &description.a,
                        &description.out, &description.out, &preference, kMostKernels, found.data(),
                        &count) != CUBLAS_STATUS_SUCCESS) {
    return {};
  }
  std::vector<ProductKernel> kernels;
  for (int i = 0; i < count; ++i) {
    if (found.at(i).state != CUBLAS_STATUS_SUCCESS) continue;
    kernels.push_back(std::bit_cast<ProductKernel>(found.at(i).algo));
  }
  return kernels;
}

bool multiply_by(const ProductKernel& kernel, const MatrixProduct& p,
                 const ProductPointers& pointers, cudaStream_t stream) {
  Description description(p);
  if (!description.is_good()) return false;
  const auto algorithm = std::bit_cast<cublasLtMatmulAlgo_t>(kernel);
  const float one = 1, kept = p.adds ? 1 : 0;
  return library().multiply(handle(), &description.product, &one, pointers.b, &description.b,
                            pointers.a, &description.a, &kept, pointers.out, &description.out,
                            pointers.out, &description.out, &algorithm, nullptr, 0,
                            stream) == CUBLAS_STATUS_SUCCESS;
}

bool is_recorded(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream, &status) != cudaSuccess ||
         status != cudaStreamCaptureStatusNone;
}

}  // namespace outrider::kernels::cuda
