#include "ops/student_chunks.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "ops/rms_norm_gradients.h"
#include "outrider/error.h"
#include "outrider/kernels/accumulation.h"
#include "outrider/ops/rms_norm.h"

namespace outrider::ops {
namespace {

at::Tensor as_matrix(const at::Tensor& output) {
  return output.detach().reshape({-1, output.size(-1)});
}

c10::List<std::optional<at::Tensor>> rows_at(const at::Tensor& index) {
  return {std::optional<at::Tensor>(index)};
}

// Copying rows to their places costs by the element: as elements of 16 bytes, where all rows can be
// seen so.
void put_rows(at::Tensor to, const at::Tensor& index, at::Tensor from) {
  const auto is_wide = [](const at::Tensor& rows) {
    const int64_t size = 16 / rows.element_size();
    return rows.is_contiguous() && rows.size(-1) % size == 0 && rows.storage_offset() % size == 0;
  };
  if (is_wide(to) && is_wide(from)) {
    to = to.view(at::kComplexDouble);
    from = from.view(at::kComplexDouble);
  }
  at::index_put_(to, rows_at(index), from);
}

// An index of -1 means the last row of what is read, and of what is written the one after all that
// are there.
at::Tensor indexed_gradient(const at::Tensor& output) {
  return at::zeros({output.numel() / output.size(-1) + 1, output.size(-1)}, output.options());
}

}  // namespace

StudentRows::StudentRows(std::vector<at::Tensor> outputs, at::Tensor rows)
    : tensors(std::move(outputs)), index(std::move(rows)) {}

StudentRows StudentRows::normed(at::Tensor weight, double eps) && {
  norm_weight = std::move(weight);
  norm_eps = eps;
  return std::move(*this);
}

int64_t StudentRows::step_count() const {
  return index.defined() ? index.size(0) : tensors.front().size(0);
}

int64_t StudentRows::row_count() const {
  return index.defined() ? index.size(1) : tensors.front().size(1);
}

void StudentRows::check() const {
  const auto is_one_of_the_width = [&](const at::Tensor& output) {
    return output.dim() >= 2 && output.size(-1) == width() && width() > 0;
  };
  const bool fit = index.defined()
                       ? !tensors.empty() && index.dim() == 2 &&
                             index.size(0) == static_cast<int64_t>(tensors.size()) &&
                             std::all_of(tensors.begin(), tensors.end(), is_one_of_the_width)
                       : tensors.size() == 1 && tensors.front().dim() == 3;
  const bool norm_fits =
      !norm_weight.defined() || (norm_weight.dim() == 1 && norm_weight.size(0) == width());
  if (fit && norm_fits) return;
  throw Error(
      ErrorCode::kInternal,
      "student rows: [T,N,h], or T outputs [...,h] and an index [T,N]; a norm's weight [h]");
}

bool is_trained(const at::Tensor& tensor) {
  return at::GradMode::is_enabled() && tensor.defined() && tensor.requires_grad();
}

at::Tensor gradient_sum(const at::Tensor& parameter) {
  return at::zeros(parameter.sizes(), parameter.options().dtype(accumulation_type(parameter)));
}

StudentChunks::StudentChunks(const StudentRows& students) : students_(students) {
  for (auto& tensor : students_.tensors) {
    auto& gradient = gradients_.emplace_back();
    if (is_trained(tensor)) {
      gradient = students_.index.defined() ? indexed_gradient(tensor) : at::empty_like(tensor);
      wants_gradient_ = true;
    }
  }
  if (is_trained(students_.norm_weight)) {
    norm_sum_ = gradient_sum(students_.norm_weight);
    wants_gradient_ = true;
  }
}

at::Tensor StudentChunks::gathered(int64_t begin, int64_t end) const {
  const int64_t steps = students_.step_count(), size = end - begin, width = students_.width();
  if (!students_.index.defined()) {
    return students_.tensors.front().slice(1, begin, end).reshape({steps * size, width});
  }
  auto rows = at::empty({steps * size, width}, students_.tensors.front().options());
  for (int64_t t = 0; t < steps; ++t) {
    auto own = rows.slice(0, t * size, (t + 1) * size);
    at::index_out(own, as_matrix(students_.tensors[static_cast<size_t>(t)]),
                  rows_at(students_.index[t].slice(0, begin, end)));
  }
  return rows;
}

StudentChunk StudentChunks::gather(int64_t begin, int64_t end) const {
  const auto rows = gathered(begin, end);
  const auto& weight = students_.norm_weight;
  return {begin, end, rows, weight.defined() ? rms_norm(rows, weight, students_.norm_eps) : rows};
}

void StudentChunks::write_gradient(const StudentChunk& chunk, const at::Tensor& gradient) {
  auto d_rows = gradient;
  if (students_.norm_weight.defined()) {
    const auto normed =
        rms_norm_gradients(gradient, chunk.rows, students_.norm_weight, students_.norm_eps);
    if (norm_sum_.defined()) norm_sum_.add_(normed.weight);
    d_rows = normed.x;
  }
  const auto by_step = d_rows.view({students_.step_count(), chunk.end - chunk.begin, -1});
  for (size_t i = 0; i < gradients_.size(); ++i) {
    if (!gradients_[i].defined()) continue;
    if (students_.index.defined()) {
      const auto t = static_cast<int64_t>(i);
      put_rows(gradients_[i], students_.index[t].slice(0, chunk.begin, chunk.end), by_step[t]);
    } else {
      gradients_[i].slice(1, chunk.begin, chunk.end).copy_(by_step);
    }
  }
}

std::vector<at::Tensor> StudentChunks::gradients() const {
  if (!students_.index.defined()) return gradients_;
  std::vector<at::Tensor> gradients;
  for (size_t t = 0; t < gradients_.size(); ++t) {
    gradients.push_back(gradients_[t].defined()
                            ? gradients_[t].slice(0, 0, -1).view(students_.tensors[t].sizes())
                            : at::Tensor());
  }
  return gradients;
}

at::Tensor StudentChunks::norm_gradient() const {
  return norm_sum_.defined() ? norm_sum_.to(students_.norm_weight.scalar_type()) : norm_sum_;
}

}  // namespace outrider::ops
