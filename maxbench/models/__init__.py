"""What one denoising step needs: the diffusion pipeline and its control branches."""

from maxbench.models.lockstep import Residuals, lockstep_adapters, lockstep_controlnets

__all__ = ["Residuals", "lockstep_adapters", "lockstep_controlnets"]
