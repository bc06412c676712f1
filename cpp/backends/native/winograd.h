// Winograd's F(4 x 4, 3 x 3): sixteen outputs of nine taps, a patch of four rows and columns, from 36
// products instead of 144. Both ways with polynomials at the points 0, a, -a, b, -b and infinity (Lavin and
// Gray, arXiv:1509.09308), here one way:
//
//   outputs = A (G weights * B inputs), product by product
//
// Smaller and larger points make the matrices' entries larger, and what rounding loses with them. Of points
// that are eighths, which keep every entry of A and B exact in single precision, none lose less one way over
// the four outputs of 64 normally distributed channels. The worst of the four is 1.7 times as far off as a
// plain sum, where 1 and 2 make it 3.1 times.
#pragma once

namespace edgeface::native::winograd {

// Of one way, as of the other.
constexpr int kTaps = 3;
constexpr int kOutputs = 4;
constexpr int kFactors = 6;  // of inputs, and as many of products

constexpr double kA = 0.625;
constexpr double kB = 1.5;

constexpr int kProducts = kFactors * kFactors;  // row by row

// What kernels need room for: vectors of so many channels.
constexpr int kMostLanes = 16;

}  // namespace edgeface::native::winograd
