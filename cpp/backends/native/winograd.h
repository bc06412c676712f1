// Winograd's F(2 x 4, 3 x 3): eight outputs of nine taps, a patch of two rows and four columns, from 24
// products instead of 72. Along rows and down columns with polynomials at some points and at infinity (Lavin
// and Gray, arXiv:1509.09308), here across:
//
//   outputs = A (G weights * B inputs), product by product
//
// Smaller and larger points make the matrices' entries larger, and what rounding loses with them. Of points
// that are eighths, which keep every entry of A and B exact in single precision, none lose less over four
// outputs of 64 normally distributed channels than 0, a, -a, b and -b. The worst of the four is 1.7 times as
// far off as a plain sum, where 1 and 2 make it 3.1 times. Down it is 0, 1 and -1.
#pragma once

namespace edgeface::native::winograd {

constexpr int kTaps = 3;  // both ways

// Across: outputs, and products from as many inputs.
constexpr int kColumns = 4;
constexpr int kColumnProducts = 6;
constexpr double kA = 0.625;
constexpr double kB = 1.5;

// Down.
constexpr int kRows = 2;
constexpr int kRowProducts = 4;

constexpr int kProducts = kRowProducts * kColumnProducts;  // row by row

// What kernels need room for: vectors of so many channels.
constexpr int kMostLanes = 16;

}  // namespace edgeface::native::winograd
