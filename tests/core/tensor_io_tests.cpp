#include <filesystem>
#include <limits>
#include <string>

#include "formats/support.h"
#include "formats/torch_bytes.h"
#include "outrider/checkpoint/tensor_io.h"
#include "outrider/ops/operator_library.h"
#include "tensor_checks.h"

namespace outrider::testing {
namespace {

namespace fs = std::filesystem;

using test::TemporaryFolder;

constexpr at::ScalarType kTypes[] = {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble, at::kLong,
                                     at::kInt,   at::kShort,    at::kChar, at::kByte,   at::kBool};

TensorMap tensors_of_every_type() {
  TensorMap tensors;
  for (const auto type : kTypes) {
    const std::string name = at::toString(type);
    tensors["matrix." + name] = random({3, 5}, 1).mul(3).abs().to(type);
    tensors["scalar." + name] = at::ones({}, type);
    tensors["empty." + name] = at::empty({0, 4}, type);
  }
  return tensors;
}

TEST_CASE("tensors of every type come back bit for bit, scalars and empty ones too") {
  const TemporaryFolder folder;
  const auto written = tensors_of_every_type();
  write_tensors(folder / "all.safetensors", written, {{"who", "me"}});
  const auto read = read_tensors(folder / "all.safetensors");
  REQUIRE(read.size() == written.size());
  for (const auto& [name, tensor] : written) {
    CAPTURE(name);
    REQUIRE(read.contains(name));
    CHECK((read.at(name).scalar_type() == tensor.scalar_type()));
    CHECK(read.at(name).sizes() == tensor.sizes());
    CHECK(at::equal(read.at(name), tensor));
  }
}

TEST_CASE("a file of tensors says that it is PyTorch's and keeps given metadata") {
  const TemporaryFolder folder;
  write_tensors(folder / "a.safetensors", {{"x", at::ones({2})}}, {{"who", "me"}});
  const auto file = SafetensorsFile::open(folder / "a.safetensors");
  CHECK(file->metadata().at("format") == "pt");
  CHECK(file->metadata().at("who") == "me");
}

TEST_CASE("a view in memory is written by its values") {
  const TemporaryFolder folder;
  const auto transposed = random({3, 4}, 1, at::kFloat).t();
  const auto strided = random({8}, 2, at::kFloat).slice(0, 1, 8, 3);
  write_tensors(folder / "a.safetensors", {{"t", transposed}, {"s", strided}});
  const auto read = read_tensors(folder / "a.safetensors");
  CHECK(at::equal(read.at("t"), transposed));
  CHECK(at::equal(read.at("s"), strided));
}

TEST_CASE("values that are no numbers survive") {
  const TemporaryFolder folder;
  const float infinity = std::numeric_limits<float>::infinity();
  const auto odd = at::tensor({infinity, -infinity, -0.0f, 1e-42f});
  write_tensors(folder / "a.safetensors",
                {{"odd", odd}, {"nan", at::full({1}, std::numeric_limits<float>::quiet_NaN())}});
  const auto read = read_tensors(folder / "a.safetensors");
  CHECK(at::equal(read.at("odd").view(at::kInt), odd.view(at::kInt)));
  CHECK(read.at("nan").isnan().item<bool>());
}

TEST_CASE("a mapped tensor outlives the map it came from and the file's name") {
  const TemporaryFolder folder;
  const auto values = random({200, 100}, 1, at::kFloat);
  write_tensors(folder / "a.safetensors", {{"big", values}, {"other", at::ones({3})}});
  at::Tensor kept;
  {
    auto all = read_tensors(folder / "a.safetensors");
    kept = all.at("big").slice(0, 50, 150);
  }
  fs::remove(folder / "a.safetensors");
  CHECK(at::equal(kept, values.slice(0, 50, 150)));
}

TEST_CASE("a type that the format has not is refused by name and nothing is written") {
  const TemporaryFolder folder;
  CHECK_CONTAINS(
      failure(ErrorCode::kUnsupported,
              [&] {
                write_tensors(folder / "a.safetensors", {{"z", at::zeros({2}, at::kComplexFloat)}});
              }),
      "ComplexFloat cannot be saved");
  CHECK_FALSE(fs::exists(folder / "a.safetensors"));
}

TEST_CASE("dtypes are parsed by their names and nothing else") {
  CHECK((parse_dtype("float32") == at::kFloat));
  CHECK((parse_dtype("bfloat16") == at::kBFloat16));
  CHECK((parse_dtype("float16") == at::kHalf));
  CHECK((parse_dtype("float64") == at::kDouble));
  for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble}) {
    CHECK((parse_dtype(dtype_name(type)) == type));
  }
  for (const char* name : {"int64", "torch.float32", "BF16", "", "float8\n"}) {
    const auto text = failure(ErrorCode::kInvalidArgument, [&] { parse_dtype(name); });
    CHECK_CONTAINS(text, "is no supported dtype");
    CHECK_CONTAINS(text, "accepted are float32, bfloat16, float16 and float64");
    CHECK(text.find('\n') == std::string::npos);
  }
  CHECK(dtype_name(at::kLong) == "int64");
  CHECK_CONTAINS(failure(ErrorCode::kUnsupported, [] { dtype_name(at::kComplexDouble); }),
                 "ComplexDouble");
}

TEST_CASE("tensors of a torch file are views of it, aligned or not, in their own strides") {
  using namespace test;
  const auto storage = p_storage("FloatStorage", "0", 8);
  bool was_aligned = false, was_unaligned = false;
  for (size_t padding = 0; padding < 4; ++padding) {
    const auto bytes = torch_bytes(p_file("(" + p_tensor(storage, 1, {3, 2}, {1, 3}) +
                                          p_tensor(storage, 8, {0, 2}, {2, 1}) +
                                          p_text(std::string(padding, 'x')) + "t"));
    auto file = TorchFile::from_bytes(bytes, "t.pth");
    const auto* view = file->tensor(file->contents()[0]);
    const bool aligned = reinterpret_cast<uintptr_t>(view->bytes.data()) % 4 == 0;
    (aligned ? was_aligned : was_unaligned) = true;
    const auto tensor = tensor_over(file, *view);
    const auto empty = tensor_over(file, *file->tensor(file->contents()[1]));
    file.reset();
    CHECK(at::equal(tensor, at::tensor({1.f, 4.f, 2.f, 5.f, 3.f, 6.f}).view({3, 2})));
    CHECK(empty.sizes() == at::IntArrayRef({0, 2}));
  }
  CHECK(was_aligned);
  CHECK(was_unaligned);
}

at::Tensor doubled(const at::Tensor& x) { return x * 2; }

at::Tensor call_doubled(const at::Tensor& x) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow("outrider_core_tests::doubled", "")
      .typed<at::Tensor(const at::Tensor&)>()
      .call(x);
}

TEST_CASE("an operator namespace that is taken is refused, and what it holds still works") {
  define_operator_namespace("outrider_core_tests").def("doubled(Tensor x) -> Tensor");
  implement_operators("outrider_core_tests", c10::DispatchKey::CPU).impl("doubled", doubled);
  CHECK(call_doubled(at::ones({2})).sum().item<double>() == 4.0);
  CHECK_THROWS_AS(define_operator_namespace("outrider_core_tests"), c10::Error);
  CHECK(call_doubled(at::ones({3})).sum().item<double>() == 6.0);
  define_operator_namespace("outrider_core_tests_other").def("nothing(Tensor x) -> Tensor");
  CHECK(c10::Dispatcher::singleton().findSchema({"outrider_core_tests_other::nothing", ""}));
}

TEST_CASE("operator specs are kept in the order of registration") {
  const auto before = operator_specs().size();
  add_operator_spec({.name = "outrider_core_tests::doubled", .sample_inputs = [](at::ScalarType t) {
                       return std::vector<OperatorInputs>{{at::ones({2}, t)}};
                     }});
  REQUIRE(operator_specs().size() == before + 1);
  const auto& spec = operator_specs().back();
  CHECK(spec.name == "outrider_core_tests::doubled");
  CHECK((spec.sample_inputs(at::kDouble)[0][0].toTensor().scalar_type() == at::kDouble));
}

}  // namespace
}  // namespace outrider::testing
