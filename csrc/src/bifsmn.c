/* bifsmn.c: the public functions, each a few lines around the other files. */

#include "bifsmn.h"

#include <string.h>

#include "network.h"

const char *bifsmn_message(int error)
{
    static const char *const messages[] = {
        "no error",
        "an argument is NULL",
        "not a BiFSMN model file",
        "the model file has another major format version; "
        "install a matching version of the runtime",
        "the model file is truncated or padded; copy or export it again",
        "checksum does not match: the model file was altered; "
        "copy or export it again",
        "the section table of the model file is wrong: "
        "a section lies outside the file or in another",
        "a section of the model file is missing or there twice",
        "a size in section CONF of the model file is zero, too large, or "
        "not a possible one",
        "the depths of the model file are not decreasing from its layers to 1",
        "a section of the model file has the wrong type or size",
        "the model file holds a number that is not finite or out of order",
        "the model file does not have one label for each class",
        "the workspace is too small; ask bifsmn_workspace_size",
        "these are not the samples of one decision; pad or cut the clip",
        "the model file cannot run at this depth",
        "this machine or this build has no kernels of this name",
    };

    if (error < 0 || (size_t)error >= sizeof messages / sizeof messages[0])
        return "unknown error";
    return messages[error];
}

/* The workspace: the handle, the front end's tables, the network's arrays. Of
 * those two one runs after the other, in memory that they share. */
static struct bifsmn *place(struct bifsmn *net, struct arena *arena)
{
    struct bifsmn *home = arena_take(arena, 1, sizeof *home);

    bifsmn_frontend_place(&net->frontend, &net->model, arena);
    bifsmn_network_place(net, arena);
    net->frontend.buffer = (float *)net->gathered;
    return home;
}

/* Whether this machine's size_t can number all bits of a workspace. */
static int addressable(const struct arena *count)
{
    return count->used <= (size_t)-1 / 8;
}

/* Bytes that must be skipped to align the workspace. */
static size_t misalignment(const void *workspace)
{
    size_t past = (uintptr_t)workspace % ARENA_ALIGNMENT;

    return past ? ARENA_ALIGNMENT - past : 0;
}

int bifsmn_workspace_size(const void *file, size_t file_size, size_t *bytes)
{
    struct bifsmn net;
    struct arena count = {NULL, ARENA_ALIGNMENT - 1};
    int error;

    if (!file || !bytes)
        return BIFSMN_ERROR_ARGUMENT;
    if ((error = bifsmn_read_model(file, file_size, &net.model)) != BIFSMN_OK)
        return error;
    place(&net, &count);
    if (!addressable(&count))
        return BIFSMN_ERROR_CONFIG;
    *bytes = (size_t)count.used;
    return BIFSMN_OK;
}

int bifsmn_open(const void *file, size_t file_size, void *workspace,
                size_t workspace_size, bifsmn **net)
{
    struct bifsmn draft, *home;
    struct arena arena = {NULL, 0};
    int error;

    if (net)
        *net = NULL;
    if (!file || !workspace || !net)
        return BIFSMN_ERROR_ARGUMENT;
    memset(&draft, 0, sizeof draft);
    if ((error = bifsmn_read_model(file, file_size, &draft.model)) != BIFSMN_OK)
        return error;
    place(&draft, &arena);
    if (!addressable(&arena))
        return BIFSMN_ERROR_CONFIG;
    if (workspace_size < misalignment(workspace) ||
        workspace_size - misalignment(workspace) < arena.used)
        return BIFSMN_ERROR_WORKSPACE;

    arena.base = (uint8_t *)workspace + misalignment(workspace);
    arena.used = 0;
    home = place(&draft, &arena);
    *home = draft;
    bifsmn_frontend_fill(&home->frontend, &home->model);
    bifsmn_network_fill(home);
    bifsmn_network_use(home, bifsmn_kernels_at(0));
    *net = home;
    return BIFSMN_OK;
}

const char *bifsmn_kernel_name(int index)
{
    const struct bifsmn_kernels *kernels =
        index < 0 ? NULL : bifsmn_kernels_at((size_t)index);

    return kernels ? kernels->name : NULL;
}

int bifsmn_use_kernels(bifsmn *net, const char *name)
{
    const struct bifsmn_kernels *kernels;
    size_t i;

    if (!net || !name)
        return BIFSMN_ERROR_ARGUMENT;
    for (i = 0; (kernels = bifsmn_kernels_at(i)) != NULL; i++)
        if (strcmp(kernels->name, name) == 0) {
            bifsmn_network_use(net, kernels);
            return BIFSMN_OK;
        }
    return BIFSMN_ERROR_KERNELS;
}

int bifsmn_info(const bifsmn *net, struct bifsmn_info *info)
{
    const struct model *m;

    if (!net || !info)
        return BIFSMN_ERROR_ARGUMENT;
    m = &net->model;
    info->sample_rate = (int)m->sample_rate;
    info->samples = (int)m->samples;
    info->hop_length = (int)m->hop_length;
    info->stride = (int)m->stride;
    info->frames = (int)m->frames;
    info->mels = (int)m->mels;
    info->frames1 = (int)m->frames1;
    info->mels1 = (int)m->mels1;
    info->frames2 = (int)m->frames2;
    info->mels2 = (int)m->mels2;
    info->conv1_channels = (int)m->conv1_channels;
    info->conv2_channels = (int)m->conv2_channels;
    info->channels = (int)m->channels;
    info->expansion = (int)m->expansion;
    info->layers = (int)m->layers;
    info->classes = (int)m->classes;
    info->depths = (int)m->depths;
    info->depth = net->depth;
    info->kernels = net->kernels->name;
    return BIFSMN_OK;
}

const char *bifsmn_label(const bifsmn *net, int index)
{
    const char *label;

    if (!net || index < 0 || (size_t)index >= net->model.classes)
        return NULL;
    label = (const char *)net->model.section[LABL].data;
    for (; index > 0; index--)
        label += strlen(label) + 1;
    return label;
}

int bifsmn_features(bifsmn *net, const int16_t *pcm, size_t samples,
                    int8_t *features)
{
    return bifsmn_features_next(net, pcm, samples, (size_t)-1, features);
}

int bifsmn_features_next(bifsmn *net, const int16_t *pcm, size_t samples,
                         size_t hops, int8_t *features)
{
    const struct model *m;

    if (!net || !pcm || !features)
        return BIFSMN_ERROR_ARGUMENT;
    m = &net->model;
    if (samples != m->samples)
        return BIFSMN_ERROR_SAMPLES;
    bifsmn_frontend_run(&net->frontend, m, pcm, hops, features);
    bifsmn_network_trace(net, "features", 0, features, m->frames * m->mels);
    return BIFSMN_OK;
}

/* The place of a depth among the model's; their number, if it is none. */
static size_t find_depth(const bifsmn *net, int depth)
{
    size_t i;

    for (i = 0; i < net->model.depths; i++)
        if (net->depth[i] == depth)
            break;
    return i;
}

int bifsmn_run_features(bifsmn *net, const int8_t *features, int depth,
                        float *scores)
{
    return bifsmn_run_features_next(net, features, (size_t)-1, depth, scores);
}

int bifsmn_run_features_next(bifsmn *net, const int8_t *features, size_t hops,
                             int depth, float *scores)
{
    size_t i;

    if (!net || !features || !scores)
        return BIFSMN_ERROR_ARGUMENT;
    if ((i = find_depth(net, depth)) == net->model.depths)
        return BIFSMN_ERROR_DEPTH;
    bifsmn_network_run(net, features, hops, i, scores);
    return BIFSMN_OK;
}

int bifsmn_run(bifsmn *net, const int16_t *pcm, size_t samples, int depth,
               float *scores)
{
    int error;

    if (!net || !scores)
        return BIFSMN_ERROR_ARGUMENT;
    if (find_depth(net, depth) == net->model.depths)
        return BIFSMN_ERROR_DEPTH;
    if ((error = bifsmn_features(net, pcm, samples, net->features)) !=
        BIFSMN_OK)
        return error;
    return bifsmn_run_features(net, net->features, depth, scores);
}

int bifsmn_set_trace(bifsmn *net, bifsmn_trace *trace, void *user)
{
    if (!net)
        return BIFSMN_ERROR_ARGUMENT;
    net->trace = trace;
    net->trace_user = user;
    return BIFSMN_OK;
}
