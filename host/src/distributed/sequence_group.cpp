#include "distributed/sequence_group.h"

#include <ATen/ATen.h>

namespace outrider {
namespace {

std::unique_ptr<Communicator> group_of(ProcessGroup& processes, int64_t size) {
  const int64_t first = processes.rank() / size * size;
  return processes.subgroup("sequence", {first, size});
}

}  // namespace

SequenceGroup::SequenceGroup(ProcessGroup& processes, int64_t size)
    : communicator_(group_of(processes, size)) {}

SequenceGroup::~SequenceGroup() = default;

at::Tensor SequenceGroup::exchange(const at::Tensor& parts) {
  auto received = at::empty_like(parts);
  communicator_->exchange(received, parts);
  return received;
}

}  // namespace outrider
