"""Describes models in the Open Inference Protocol: tensors, configuration and statistics."""

from imagemint.open_inference import grpc_service_pb2 as messages
from imagemint.open_inference import model_config_pb2 as configuration
from imagemint.server.batching import Priority
from imagemint.server.repository import Model, ServedVersion
from imagemint.server.rpc.open_inference.requests import PRIORITIES
from imagemint.server.rpc.open_inference.tensors import (
    TensorForm,
    list_graph_inputs,
    list_graph_outputs,
)
from imagemint.server.telemetry.statistics import Sums, Tally

# Triton's name for a model.onnx in its repository.
_PLATFORM = "onnxruntime_onnx"
_BACKEND = "onnxruntime"
_FILE = "model.onnx"
_ANY_NUMBER = -1


def describe_tensors(model: Model, version: ServedVersion) -> messages.ModelMetadataResponse:
    """Returns the tensors of the graph. A request with all of its inputs is valid."""
    return messages.ModelMetadataResponse(
        name=model.name,
        versions=[str(each.number) for each in model.versions.values() if each.served],
        platform=_PLATFORM,
        inputs=[_describe_tensor(form) for form in list_graph_inputs(version.spec)],
        outputs=[_describe_tensor(form) for form in list_graph_outputs(version.spec)],
    )


def _describe_tensor(form: TensorForm) -> messages.ModelMetadataResponse.TensorMetadata:
    return messages.ModelMetadataResponse.TensorMetadata(
        name=form.name, datatype=form.datatype, shape=(_ANY_NUMBER, *form.row)
    )


def describe_configuration(version: ServedVersion) -> configuration.ModelConfig:
    """Returns the configuration of a version."""
    batcher, spec = version.batcher, version.spec
    on_cpu = version.backend.provider == "CPUExecutionProvider"
    group = configuration.ModelInstanceGroup
    return configuration.ModelConfig(
        name=spec.name,
        platform=_PLATFORM,
        backend=_BACKEND,
        default_model_filename=_FILE,
        max_batch_size=version.max_images,
        input=[
            configuration.ModelInput(
                name=form.name,
                data_type=_get_data_type(form),
                dims=form.row,
                optional=form.optional,
            )
            for form in list_graph_inputs(spec)
        ],
        output=[
            configuration.ModelOutput(name=form.name, data_type=_get_data_type(form), dims=form.row)
            for form in list_graph_outputs(spec)
        ],
        instance_group=[
            group(kind=group.KIND_CPU if on_cpu else group.KIND_GPU, count=batcher.instances)
        ],
        dynamic_batching=configuration.ModelDynamicBatching(
            preferred_batch_size=batcher.preferred_images,
            max_queue_delay_microseconds=round(1e6 * batcher.delay_s),
            priority_levels=len(PRIORITIES),
            default_priority_level=PRIORITIES.index(Priority.NORMAL) + 1,
        ),
    )


def _get_data_type(
    form: TensorForm,
) -> "configuration.DataType.ValueType":  # only the stubs have this type
    return configuration.DataType.Value(f"TYPE_{form.datatype}")


def describe_statistics(version: ServedVersion, sums: Sums) -> messages.ModelStatistics:
    """Returns the statistics of a version, over the calls of all services."""
    return messages.ModelStatistics(
        name=version.spec.name,
        version=str(version.version),
        last_inference=sums.last_ms,
        inference_count=sums.images,
        execution_count=sums.executions,
        inference_stats=messages.InferStatistics(
            success=_make_duration(sums.success),
            fail=_make_duration(sums.fail),
            queue=_make_duration(sums.queue),
            compute_input=_make_duration(sums.input),
            compute_infer=_make_duration(sums.inference),
            compute_output=_make_duration(sums.output),
        ),
        batch_stats=[
            messages.InferBatchStatistics(
                batch_size=size,
                compute_input=_make_duration(passes.input),
                compute_infer=_make_duration(passes.inference),
                compute_output=_make_duration(passes.output),
            )
            for size, passes in sorted(sums.passes.items())
        ],
    )


def _make_duration(tally: Tally) -> messages.StatisticDuration:
    return messages.StatisticDuration(count=tally.count, ns=tally.ns)
