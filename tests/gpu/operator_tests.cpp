#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <fmt/format.h>

#include "check/operator_call.h"
#include "device.h"
#include "outrider/error.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/nn/fp8_product.h"
#include "outrider/ops/operator_library.h"
#include "outrider/ops/quantize_rows.h"
#include "outrider/ops/rotary.h"

namespace outrider::testing::operator_tests {
namespace {

using check::moved;
using check::outputs_and_gradients;

void load_plugins() {
  for (const char* name : {"eagle", "medusa"}) plugin_loader().load({.name = name});
}

void check_operator(const std::string& name, const OperatorInputs& inputs, double limit) {
  const auto actual = outputs_and_gradients(name, moved(inputs, at::kCUDA));
  const auto expected = outputs_and_gradients(name, moved(inputs, at::kCPU));
  REQUIRE(actual.size() == expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    CAPTURE(fmt::format("{}: result {}", name, i));
    CHECK(actual[i].is_cuda());
    CHECK(type_name(actual[i]) == type_name(expected[i]));
    CHECK(difference(actual[i], expected[i], 1) < limit);
  }
}

double limit_of(const OperatorSpec& spec, at::ScalarType type) {
  return type == at::kBFloat16 ? spec.low_precision_tolerance : spec.rtol;
}

// Widths that are a power of two, that leave rows unaligned, and whose weight gradients do not fit
// into shared memory.
const std::vector<std::vector<int64_t>> kSizes = {{1, 1},      {3, 77},     {5, 3, 64},
                                                  {300, 1000}, {700, 4096}, {2, 13001},
                                                  {600, 576},  {9, 8192},   {2, 16384}};

const std::vector<at::ScalarType> kTypes = {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble};

}  // namespace

TEST_CASE("every registered operator gives on the device what it gives on the cpu") {
  load_plugins();
  at::manual_seed(10);
  CHECK(operator_specs().size() >= 2);
  for (const auto& spec : operator_specs()) {
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      for (const auto& inputs : spec.sample_inputs(type)) {
        check_operator(spec.name, inputs, limit_of(spec, type));
      }
    }
  }
}

TEST_CASE("double norm and concatenation agrees at sizes of real drafts and at odd ones") {
  load_plugins();
  at::manual_seed(11);
  for (const auto type : kTypes) {
    for (const auto& size : kSizes) {
      for (const bool twice : {false, true}) {
        CAPTURE(fmt::format("{} width {} twice {}", c10::toString(type), size.back(), twice));
        const auto weight = [&] { return (at::rand({size.back()}) + 0.5).to(type); };
        check_operator(
            "outrider_eagle::double_norm_concat",
            {at::randn(size).to(type), at::randn(size).to(type), weight(), weight(), 1e-5, twice},
            tolerance(type));
      }
    }
  }
}

TEST_CASE("double norm and concatenation reads sequences without their ends where they lie") {
  load_plugins();
  at::manual_seed(19);
  for (const auto type : kTypes) {
    const auto options = at::TensorOptions(at::kCUDA).dtype(type);
    const auto embeddings = at::randn({3, 8, 72}, options).slice(1, 1);
    const auto hidden = at::randn({3, 8, 72}, options).slice(1, 0, -1);
    const auto weight = at::rand({72}, options);
    const auto results = [&](const at::Tensor& e, const at::Tensor& g) {
      return outputs_and_gradients(
          "outrider_eagle::double_norm_concat",
          {e.detach().requires_grad_(), g.detach().requires_grad_(),
           weight.detach().requires_grad_(), weight.detach().requires_grad_(), 1e-5, false});
    };
    const auto actual = results(embeddings, hidden);
    const auto expected = results(embeddings.contiguous(), hidden.contiguous());
    for (size_t i = 0; i < actual.size(); ++i) CHECK(at::equal(actual[i], expected[i]));
  }
}

TEST_CASE("the residual block's epilogue agrees at sizes of real drafts and at odd ones") {
  load_plugins();
  at::manual_seed(12);
  for (const auto type : kTypes) {
    for (const auto& size : kSizes) {
      CAPTURE(fmt::format("{} width {}", c10::toString(type), size.back()));
      check_operator("outrider_medusa::residual_silu",
                     {at::randn(size).to(type), (at::randn(size) * 3).to(type),
                      at::randn({size.back()}).to(type)},
                     tolerance(type));
    }
  }
}

TEST_CASE("a norm and a gated unit agree at sizes of real models and at odd ones") {
  at::manual_seed(14);
  for (const auto type : kTypes) {
    for (const auto& size : kSizes) {
      CAPTURE(fmt::format("{} width {}", c10::toString(type), size.back()));
      const auto rows = [&] { return (at::randn(size) * 3).to(type); };
      check_operator("outrider::rms_norm", {rows(), (at::rand({size.back()}) + 0.5).to(type), 1e-5},
                     tolerance(type));
      check_operator("outrider::swiglu", {rows(), rows()}, tolerance(type));
    }
  }
}

TEST_CASE("rotation agrees at real head sizes, strides and parts of a head") {
  at::manual_seed(15);
  for (const auto type : kTypes) {
    for (const int64_t head_dim : {64, 80, 96, 128, 256, 10}) {
      for (const int64_t rotated : {head_dim, int64_t{6}}) {
        CAPTURE(fmt::format("{} head {} rotated {}", c10::toString(type), head_dim, rotated));
        const auto angles = at::randn({2, 1, 33, rotated});
        const auto x = at::randn({2, 33, 5, head_dim}).to(type);
        const auto cos = angles.cos().to(type), sin = angles.sin().to(type);
        check_operator("outrider::rotary", {x.transpose(1, 2), cos, sin}, tolerance(type));
        check_operator("outrider::rotary",
                       {x.transpose(1, 2).contiguous(), cos[0].unsqueeze(0), sin[0].unsqueeze(0)},
                       tolerance(type));
      }
    }
  }
}

TEST_CASE("query and key turn in their own place as they do by themselves") {
  at::manual_seed(20);
  for (const auto type : kTypes) {
    for (const int64_t head_dim : {64, 128, 10}) {
      for (const int64_t rotated : {head_dim, int64_t{6}}) {
        CAPTURE(fmt::format("{} head {} rotated {}", c10::toString(type), head_dim, rotated));
        const auto options = at::TensorOptions(at::kCUDA).dtype(type);
        const auto angles = at::randn({2, 1, 33, rotated}, options);
        const auto cos = angles.cos(), sin = angles.sin();
        const auto rows =
            at::randn({2, 33, 9, head_dim}, options);  // 6 heads, 2 and one that stays
        const auto heads = rows.transpose(1, 2).clone();
        const auto in_place = rows.transpose(1, 2);
        ops::rotate_in_place(in_place.narrow(1, 0, 6), in_place.narrow(1, 6, 2), cos, sin);
        CHECK(at::equal(in_place.narrow(1, 0, 8), ops::rotary(heads.narrow(1, 0, 8), cos, sin)));
        CHECK(at::equal(in_place.narrow(1, 8, 1), heads.narrow(1, 8, 1)));
      }
    }
  }
}

TEST_CASE("rows become the same eight-bit floats on the device, and products of them agree") {
  at::manual_seed(16);
  for (const auto type : kTypes) {
    for (const auto& size :
         std::vector<std::vector<int64_t>>{{1, 16}, {3, 77}, {300, 1000}, {700, 4096}}) {
      CAPTURE(fmt::format("{} width {}", c10::toString(type), size.back()));
      const auto x = (at::randn(size) * 3).to(type);
      const auto actual = ops::quantize_rows(x.to(at::kCUDA)), expected = ops::quantize_rows(x);
      CHECK(difference(actual.scales, expected.scales, 1) < 1e-6);
      // The product by which values are scaled may differ in its last bit, and round otherwise.
      CHECK(difference(actual.values.to(at::kFloat), expected.values.to(at::kFloat), 1) < 0.07);
    }
  }
  const auto weight = at::randn({96, 256}).to(at::kBFloat16),
             x = at::randn({40, 256}).to(at::kBFloat16);
  const auto product = [&](at::Device device) {
    return nn::Fp8Product(weight.to(device), {}, std::make_shared<nn::Fp8Input>())
        .forward(x.to(device));
  };
  CHECK(difference(product(at::kCUDA), product(at::kCPU), 1) < 2e-2);
  CHECK_THROWS_AS(
      nn::Fp8Product(weight.narrow(1, 0, 24).to(at::kCUDA), {}, std::make_shared<nn::Fp8Input>()),
      Error);
}

TEST_CASE("weight gradients of operators have the same bits every time") {
  load_plugins();
  at::manual_seed(13);
  const auto rows = [] { return at::randn({900, 2048}).to(at::kBFloat16); };
  const auto weight = [] { return at::rand({2048}).to(at::kBFloat16); };
  const std::vector<std::pair<std::string, OperatorInputs>> calls = {
      {"outrider_eagle::double_norm_concat", {rows(), rows(), weight(), weight(), 1e-5, false}},
      {"outrider_medusa::residual_silu", {rows(), rows(), weight()}},
      {"outrider::rms_norm", {rows(), weight(), 1e-5}}};
  for (const auto& [name, inputs] : calls) {
    CAPTURE(name);
    const auto first = outputs_and_gradients(name, moved(inputs, at::kCUDA));
    const auto second = outputs_and_gradients(name, moved(inputs, at::kCUDA));
    for (size_t i = 0; i < first.size(); ++i) CHECK(at::equal(first[i], second[i]));
  }
}

}  // namespace outrider::testing::operator_tests
