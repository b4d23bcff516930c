/* Reads images of 8x8 floats from a file and prints the digit that the saved model sees in each:
   cc digits.c -o digits -I. ./digits.so -Wl,-rpath,'$ORIGIN' && ./digits images.f32 */
#include <stdio.h>
#include <stdlib.h>
#include "digits.h"

int main(int count, char **words) {
    FILE *file = count == 2 ? fopen(words[1], "rb") : NULL;
    if (!file) return 2;
    fseek(file, 0, SEEK_END);
    int64_t images = ftell(file) / (64 * sizeof(float));
    rewind(file);
    float *pixels = malloc(images * 64 * sizeof(float)), *chances = malloc(images * 10 * sizeof(float));
    if (fread(pixels, 64 * sizeof(float), images, file) != (size_t)images) return 2;
    void *inputs[] = {pixels}, *outputs[] = {chances};
    int32_t site = digits_run(inputs, outputs, &images, NULL, 1);
    if (site) {
        puts(digits_error(site));
        return 1;
    }
    for (int64_t i = 0; i < images; i++) {
        int best = 0;
        for (int k = 1; k < 10; k++)
            if (chances[10 * i + k] > chances[10 * i + best]) best = k;
        printf("%d\n", best);
    }
    return 0;
}
