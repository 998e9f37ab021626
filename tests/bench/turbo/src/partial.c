/* Decodes the part of a JPEG that a box needs, by jpeg_crop_scanline and jpeg_skip_scanlines. */
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

struct reader {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    jmp_buf failed;
};

static void fail(j_common_ptr jpeg) {
    longjmp(((struct reader *)jpeg)->failed, 1);
}

static void quiet(j_common_ptr jpeg, int level) {
    (void)jpeg, (void)level;
}

struct reader *reader_new(void) {
    struct reader *reader = calloc(1, sizeof *reader);
    reader->jpeg.err = jpeg_std_error(&reader->errors);
    reader->errors.error_exit = fail;
    reader->errors.emit_message = quiet;
    jpeg_create_decompress(&reader->jpeg);
    return reader;
}

/* Reads height and width from the header. Returns 0 on success. */
int reader_open(struct reader *reader, const uint8_t *data, size_t length, uint32_t size[2]) {
    if (setjmp(reader->failed)) return 1;
    jpeg_abort_decompress(&reader->jpeg);
    jpeg_mem_src(&reader->jpeg, data, length);
    jpeg_read_header(&reader->jpeg, TRUE);
    size[0] = reader->jpeg.image_height;
    size[1] = reader->jpeg.image_width;
    return 0;
}

/* Decodes the rows of box {top, left, height, width}, in the columns of the MCUs that it touches: `columns` gets the
   first column and their number. `pixels` has room for rows of the image's width. Returns 0 on success. */
int reader_decode(struct reader *reader, const uint32_t box[4], uint32_t columns[2], uint8_t *pixels) {
    j_decompress_ptr jpeg = &reader->jpeg;
    if (setjmp(reader->failed)) return 1;
    jpeg->out_color_space = JCS_RGB;
    jpeg_start_decompress(jpeg);
    JDIMENSION left = box[1], width = box[3];
    jpeg_crop_scanline(jpeg, &left, &width);
    if (jpeg_skip_scanlines(jpeg, box[0]) != box[0]) return 1;
    for (uint32_t row = 0; row < box[2];) {
        JSAMPROW to = pixels + (size_t)row * width * 3;
        row += jpeg_read_scanlines(jpeg, &to, 1);
    }
    columns[0] = left;
    columns[1] = width;
    return 0;
}

const char *reader_version(void) {
#define TEXT(x) #x
#define NAME(x) TEXT(x)
    return NAME(LIBJPEG_TURBO_VERSION);
}
