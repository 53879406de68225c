#pragma once

#include <cstddef>

#include "outrider/error.h"

namespace outrider {

/// While it lives, the tensors that this thread creates on the CPU may take `bytes` in all; the one
/// that would take more throws `refusal`. One inside of another counts for both. For code that
/// builds what a config or checkpoint describes.
class AllocationBudget {
 public:
  AllocationBudget(size_t bytes, const Error& refusal);
  ~AllocationBudget();
  AllocationBudget(const AllocationBudget&) = delete;
  AllocationBudget& operator=(const AllocationBudget&) = delete;

 private:
  friend class BudgetAllocator;
  size_t left_;
  Error refusal_;
  AllocationBudget* outer_;
};

}  // namespace outrider
