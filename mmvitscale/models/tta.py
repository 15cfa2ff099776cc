"""Test-time augmentation of instance masks, which mmdetection's own refuses."""

from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseTTAModel
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmvitscale.errors import InputError
from mmvitscale.registry import MODELS

_FLIPPED_AXES = {'horizontal': [-1], 'vertical': [-2], 'diagonal': [-1, -2]}


@MODELS.register_module()
class MaskTTAModel(BaseTTAModel):
    """Boxes and masks of a two-stage detector over several scales and flips (``tta_model`` in a config).

    The boxes of all views are merged by NMS. The mask head then sees the merged boxes in every view, and the mean of its
    masks is cut at the model's threshold (Mask R-CNN, arXiv 1703.06870, appendix A). Without a mask head, boxes only.

    Args:
        module: the detector, or its config: mmdetection's Faster, Mask, Cascade R-CNN or HTC.
        nms: how the boxes of the views are merged, mmcv's config of an NMS.
        max_per_img: boxes kept.

    Raises:
        InputError: for a detector of another kind.
    """

    def __init__(self, module: nn.Module | dict[str, Any], nms: dict[str, Any], max_per_img: int = 100, **kwargs: Any):
        super().__init__(module, **kwargs)
        if not hasattr(self.module, 'roi_head'):
            raise InputError(
                f'tta_model mmvitscale.MaskTTAModel found with a {type(self.module).__name__}, but it is for '
                'two-stage detectors (Mask R-CNN, Cascade R-CNN, HTC); use DetTTAModel, for boxes'
            )
        self.nms = nms
        self.max_per_img = max_per_img

    @torch.no_grad()
    def test_step(self, data: dict[str, Any]) -> list[Any]:
        """A batch of views (each value of the dict a list of one batch per view) -> one data sample per image."""
        views = [
            _View(self.module, {key: value[i] for key, value in data.items()}) for i in range(len(next(iter(data.values()))))
        ]
        per_view = [view.boxes() for view in views]
        merged = [self._merge([results[i] for results in per_view]) for i in range(len(views[0].samples))]
        if self.module.roi_head.with_mask:
            # of one sum at a time: masks of a hundred boxes in an image's full size are large
            sums = [0.0] * len(merged)
            for view in views:
                sums = [total + masks for total, masks in zip(sums, view.masks(merged))]
            threshold = self.module.roi_head.test_cfg.mask_thr_binary
            for results, total in zip(merged, sums):
                results.masks = total / len(views) >= threshold
        for sample, results in zip(views[0].samples, merged):
            sample.pred_instances = results
        return views[0].samples

    def merge_preds(self, data_samples_list: list[list[Any]]) -> list[Any]:
        """Not in use: ``test_step`` merges before there are predictions."""
        raise NotImplementedError

    def _merge(self, views: list[InstanceData]) -> InstanceData:
        from mmcv.ops import batched_nms

        results = InstanceData.cat(views)
        if not len(results):
            return results
        boxes, kept = batched_nms(results.bboxes, results.scores, results.labels, self.nms)
        results = results[kept][: self.max_per_img]
        results.bboxes, results.scores = boxes[: self.max_per_img, :4], boxes[: self.max_per_img, 4]
        return results


class _View:
    """A batch of images in one scale and flip, and its features. What goes in and out is upright, in the images' own
    sizes."""

    def __init__(self, module: nn.Module, data: dict[str, Any]):
        data = module.data_preprocessor(data, False)
        self.module, self.head = module, module.roi_head
        self.samples = data['data_samples']
        self.metas = [sample.metainfo for sample in self.samples]
        self.features = module.extract_feat(data['inputs'])
        # HTC hands the features of its semantic branch to boxes and masks, by different names.
        self.semantic = None
        self.is_htc = hasattr(self.head, 'with_semantic')
        if self.is_htc and self.head.with_semantic:
            _, self.semantic = self.head.semantic_head(self.features)

    def boxes(self) -> list[InstanceData]:
        """Boxes, scores and labels of each image."""
        proposals = self.module.rpn_head.predict(self.features, self.samples, rescale=False)
        extra = dict(semantic_feat=self.semantic) if self.is_htc else {}
        results = self.head.predict_bbox(
            x=self.features,
            batch_img_metas=self.metas,
            rpn_results_list=proposals,
            rcnn_test_cfg=self.head.test_cfg,
            rescale=True,
            **extra,
        )
        for result, meta in zip(results, self.metas):
            result.bboxes = _flip_boxes(result.bboxes, meta)
        return results

    def masks(self, results: list[InstanceData]) -> list[Tensor]:
        """For each image's boxes the probability that a pixel belongs to the object, (n, H, W) float."""
        inside = []
        for result, meta in zip(results, self.metas):
            boxes = _flip_boxes(result.bboxes, meta)
            scale = boxes.new_tensor(meta['scale_factor']).repeat(2)
            inside.append(InstanceData(bboxes=boxes * scale, labels=result.labels, scores=result.scores))
        extra = dict(semantic_heat=self.semantic) if self.is_htc else {}
        own = self.head.test_cfg
        self.head.test_cfg = ConfigDict(own, mask_thr_binary=-1)  # mmdetection then gives 0 to 255
        try:
            found = self.head.predict_mask(
                self.features, batch_img_metas=self.metas, results_list=inside, rescale=True, **extra
            )
        finally:
            self.head.test_cfg = own
        return [_flip(result.masks.float() / 255, meta) for result, meta in zip(found, self.metas)]


def _flip(masks: Tensor, meta: dict[str, Any]) -> Tensor:
    return masks.flip(_FLIPPED_AXES[meta['flip_direction']]) if meta.get('flip') else masks


def _flip_boxes(boxes: Tensor, meta: dict[str, Any]) -> Tensor:
    """(n, 4) x1, y1, x2, y2 in the image's own size, to the flipped image and back."""
    from mmdet.structures.bbox import bbox_flip

    return bbox_flip(boxes, meta['ori_shape'], meta['flip_direction']) if meta.get('flip') else boxes
