"""Runs and steps on one device: on two cores, eight devices take several times as long."""

from functools import partial

import jax

from crnn_jax import evaluation, scoring, train, train_step
from crnn_jax.training import parallel

ONE_DEVICE = jax.local_devices()[:1]

train_and_evaluate = partial(train.train_and_evaluate, devices=ONE_DEVICE)
make_train_step = partial(train_step.make_train_step, devices=ONE_DEVICE)
make_eval_step = partial(evaluation.make_eval_step, devices=ONE_DEVICE)
evaluate = partial(scoring.evaluate, devices=ONE_DEVICE)
evaluate_split = partial(evaluation.evaluate_split, devices=ONE_DEVICE)
score = partial(scoring.score, devices=ONE_DEVICE)
replicate = partial(parallel.replicate, devices=ONE_DEVICE)
shard = partial(parallel.shard, devices=ONE_DEVICE)
