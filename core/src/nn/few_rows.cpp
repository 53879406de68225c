#include "outrider/nn/few_rows.h"

#include <ATen/ATen.h>

namespace outrider::nn {
namespace {

int64_t outputs_of(const std::vector<ops::LinearParameters>& layers) {
  int64_t outputs = 0;
  for (const auto& layer : layers) outputs += layer.weight.size(0);
  return outputs;
}

ops::FewRowsAttention attention_of(const FewRowsLayer& layer, const FewRowsPlace& place,
                                   const at::Tensor& qkv) {
  return {.qkv = qkv,
          .query_norm = layer.query_norm,
          .key_norm = layer.key_norm,
          .cos = place.tables.cos,
          .sin = place.tables.sin,
          .tables_by_position = place.tables_by_position,
          .positions = place.positions,
          .keys = place.keys,
          .values = place.values,
          .lengths = place.lengths,
          .seen = place.seen,
          .window = layer.window};
}

}  // namespace

bool takes_few_rows(const FewRowsLayer& layer, const at::Tensor& input,
                    const at::Tensor& residual) {
  return ops::are_few_rows(residual.size(0), residual.size(1)) &&
         ops::attends_few_rows(residual, layer.head_dim) && ops::takes_few_rows(input, layer.qkv) &&
         ops::takes_few_rows(residual, layer.heads * layer.head_dim, {layer.output}) &&
         ops::takes_few_rows(residual, layer.gate_up) &&
         ops::takes_few_rows(residual, layer.gate_up[0].weight.size(0), {layer.down});
}

FewRowsBuffers few_rows_buffers(const FewRowsLayer& layer, const FewRowsPlace& place,
                                const at::Tensor& residual) {
  const auto make = [&](int64_t width) {
    return at::empty({residual.size(0), residual.size(1), width}, residual.options());
  };
  FewRowsBuffers buffers{.qkv = make(outputs_of(layer.qkv)),
                         .attended = make(layer.heads * layer.head_dim),
                         .residual = at::empty_like(residual),
                         .activation = make(layer.down.weight.size(1)),
                         .workspace = {}};
  buffers.workspace = at::zeros({ops::few_rows_workspace(attention_of(layer, place, buffers.qkv))},
                                residual.options().dtype(at::kByte));
  return buffers;
}

void run_few_rows(const FewRowsLayer& layer, const at::Tensor& input, const at::Tensor& residual,
                  const FewRowsPlace& place, const FewRowsBuffers& buffers, const at::Tensor& y) {
  using ops::Joined;
  ops::few_rows_product(input, layer.input_norm, layer.qkv, Joined::kSideBySide, {}, buffers.qkv);
  ops::few_rows_attention(attention_of(layer, place, buffers.qkv), buffers.workspace,
                          buffers.attended);
  ops::few_rows_product(buffers.attended, {}, {layer.output}, Joined::kSideBySide, residual,
                        buffers.residual);
  ops::few_rows_product(buffers.residual, layer.mlp_norm, layer.gate_up, Joined::kGated, {},
                        buffers.activation);
  ops::few_rows_product(buffers.activation, {}, {layer.down}, Joined::kSideBySide, buffers.residual,
                        y);
}

}  // namespace outrider::nn
