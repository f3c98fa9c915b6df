// Arrays of the caller by address and stride, as integers.
#pragma once

#include <array>

#include "data.hpp"

namespace core {

template <std::size_t size>
using Addresses = std::array<std::int64_t, size>;

inline void* pointer(std::int64_t address) { return reinterpret_cast<void*>(static_cast<std::intptr_t>(address)); }

// The k-th pair (address, stride).
template <std::size_t size>
Block block(const Addresses<size>& pairs, std::size_t k) {
    return {pointer(pairs[2 * k]), static_cast<Index>(pairs[2 * k + 1])};
}

}  // namespace core
