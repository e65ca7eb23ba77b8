/* selftest.h: does this device, with this compiler, compute what it should? */

#ifndef SELFTEST_H
#define SELFTEST_H

#include "bifsmn.h"

/* NULL if all is as it was exported, else the name of the first stage that is
 * not. The buffers, of one window, are overwritten: BIFSMN_MODEL_SAMPLES of PCM,
 * BIFSMN_MODEL_FEATURES, BIFSMN_MODEL_CLASSES scores. Afterwards no trace is
 * set. */
const char *bifsmn_selftest(bifsmn *net, int16_t *pcm, int8_t *features,
                            float *scores);

#endif
