/** Upper bounds of a rate from a count: one that may be looked at any time, one for a sample of fixed size. */

/**
 * An upper confidence bound that holds at all times at once: with probability 1 − alpha the true rate never exceeds it, however often
 * and whenever somebody looks. It suits a number on a live page, where a fixed-sample bound would be wrong as soon as one stops at a
 * good moment.
 *
 * The likelihood of the data under a rate p is compared with its average under a uniform prior, M(p) = B(1 + k, 1 + n − k) / (p^k (1 − p)^(n − k)).
 * At the true p that is a martingale with mean 1, so by Ville's inequality it ever reaches 1 / alpha with probability at most alpha
 * (H. Robbins, "Statistical methods related to the law of the iterated logarithm", 1970; S. R. Howard et al., "Time-uniform, nonparametric,
 * nonasymptotic confidence sequences", 2021). The bound is the largest p with M(p) < 1 / alpha.
 * @param failures k, of `trials` n.
 * @param alpha .05 by default: a 95 % bound.
 */
export function upperBound(failures: number, trials: number, alpha = 0.05): number {
  requireCounts(failures, trials, alpha);
  if (trials === 0 || failures === trials) return 1;
  const mixture = logBeta(1 + failures, 1 + trials - failures);
  const limit = -Math.log(alpha);
  const beyond = (p: number) =>
    mixture - failures * Math.log(p) - (trials - failures) * Math.log1p(-p) > limit;
  return smallest(beyond, failures / trials);
}

/**
 * The upper end of the exact interval for a sample whose size was fixed beforehand: the rate at which so few failures have probability
 * alpha (C. J. Clopper, E. S. Pearson, "The use of confidence or fiducial limits", 1934; one-sided). Zero failures in n give
 * 1 − alpha^(1/n), about 3 / n.
 * @param alpha .05 by default.
 */
export function exactUpper(failures: number, trials: number, alpha = 0.05): number {
  requireCounts(failures, trials, alpha);
  if (trials === 0 || failures === trials) return 1;
  const limit = Math.log(alpha);
  return smallest((p) => logBinomialUpTo(failures, trials, p) < limit, failures / trials);
}

/** ln P(X ≤ k) for X ~ Binomial(n, p). */
function logBinomialUpTo(k: number, n: number, p: number): number {
  let term = n * Math.log1p(-p);
  let sum = term;
  for (let i = 1; i <= k; i++) {
    term += Math.log((n - i + 1) / i) + Math.log(p) - Math.log1p(-p);
    sum = Math.max(sum, term) + Math.log1p(Math.exp(-Math.abs(sum - term)));
  }
  return sum;
}

/** The smallest p in (from, 1) at which a statement that stays true becomes true, by bisection to 1e-12 of its size. */
function smallest(isTrue: (p: number) => boolean, from: number): number {
  let low = from;
  let high = 1;
  for (let i = 0; i < 200 && high - low > 1e-12 * high; i++) {
    const middle = (low + high) / 2;
    if (isTrue(middle)) high = middle;
    else low = middle;
  }
  return high;
}

function logBeta(a: number, b: number): number {
  return logGamma(a) + logGamma(b) - logGamma(a + b);
}

// Stirling's series, from 10 on good to 1e-14; smaller arguments are stepped up to it.
function logGamma(x: number): number {
  let shift = 0;
  let y = x;
  for (; y < 10; y++) shift += Math.log(y);
  const inverse = 1 / (y * y);
  const series =
    (1 / 12 - inverse * (1 / 360 - inverse * (1 / 1260 - inverse * (1 / 1680 - inverse / 1188)))) / y;
  return (y - 0.5) * Math.log(y) - y + 0.5 * Math.log(2 * Math.PI) + series - shift;
}

function requireCounts(failures: number, trials: number, alpha: number): void {
  const whole = Number.isInteger(failures) && Number.isInteger(trials);
  if (!whole || failures < 0 || failures > trials)
    throw new RangeError(`${failures} failures of ${trials} trials is not a count.`);
  if (!(alpha > 0 && alpha < 1)) throw new RangeError(`alpha is between 0 and 1, not ${alpha}.`);
}
